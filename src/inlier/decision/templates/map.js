
"use strict";
(() => {
  const NUM_COLORS = 12;
  const STRIP = innerWidth < 700 ? 40 : 120; // thumbnails shown at first
  const $ = (id) => document.getElementById(id);
  const {root, names, panels: given, fields, color, block} = JSON.parse($("content").textContent);
  const n = names.length;
  const fold = (text) => text.normalize("NFC").toLowerCase();
  const numbers = (base64) => new Uint16Array(Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0)).buffer);
  const dark = matchMedia("(prefers-color-scheme: dark)");

  // Classes would cover one another in the order of their names, so points are drawn in a scattered order.
  const order = Uint32Array.from({length: n}, (_, place) => place);
  for (let i = n - 1, state = 1; i > 0; i--) {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    const j = Math.floor(state / 4294967296 * (i + 1));
    [order[i], order[j]] = [order[j], order[i]];
  }

  const known = fields.map((field) => ({...field, codes: numbers(field.codes), hidden: new Set()}));
  let field = known.find(({key}) => key === color) ?? {key: "", title: "", values: [""], codes: new Uint16Array(n), hidden: new Set()};
  let numShown = STRIP, mode = "select", isSpaceDown = false;

  // What all maps show. A class is {name, count, codes, color, isSquare}: a value of the field, or several in grey.
  const scene = {
    n, order, selected: new Uint8Array(n), numSelected: 0, hovered: -1, classes: [], classOf: new Uint16Array(n), hidden: new Set(),
    isHidden: (i) => scene.hidden.has(scene.classes[scene.classOf[i]].name),
  };
  const {selected} = scene;
  const panels = [...document.querySelectorAll(".map")].map((figure, k) => new MapPanel(figure, numbers(given[k].places), scene));

  function element(tag, properties, ...children) {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  }

  const picture = (i) => {
    const lines = $("thumbnails")?.children[Math.floor(i / block)]?.textContent;
    const line = lines?.split("\n")[i % block];
    return line ? `data:image/webp;base64,${line}` : null;
  };
  const shown = (value) => value || "unknown";
  const what = (i) => known.map((of) => shown(of.values[of.codes[i]])).join(" · ");

  // ---- colours

  const MEANING = {
    verdict: {reject: "--reject-fill", uncertain: "--uncertain-fill", accept: "--accept-fill"},
    anomalous: {anomalous: "--reject-fill", normal: "--accept-fill"},
  };

  function chooseColors() {
    const counts = new Uint32Array(field.values.length);
    for (const code of field.codes) counts[code]++;
    const isNamed = (code) => field.values[code] !== "";
    const codes = [...counts.keys()].filter(isNamed);
    const own = codes.length > NUM_COLORS ? codes.slice(0, NUM_COLORS - 1) : codes;
    const classes = own.map((code, place) => ({
      name: field.values[code], count: counts[code], codes: [code], isSquare: place >= 6,
      color: MapPanel.color(MEANING[field.key]?.[field.values[code]] ?? `--c${place + 1}`),
    }));
    const grey = (name, of) => classes.push({
      name, count: of.reduce((sum, code) => sum + counts[code], 0), codes: of, isSquare: false, color: MapPanel.color("--other"),
    });
    if (codes.length > own.length) grey(`${codes.length - own.length} others`, codes.slice(own.length));
    const unknown = [...counts.keys()].filter((code) => !isNamed(code));
    if (unknown.length) grey("unknown", unknown);
    const classOfCode = new Uint16Array(counts.length);
    classes.forEach(({codes: of}, place) => { for (const code of of) classOfCode[code] = place; });
    Object.assign(scene, {classes, classOf: Uint16Array.from(field.codes, (code) => classOfCode[code]), hidden: field.hidden});
  }

  // ---- drawing

  let frame = 0;
  function redraw(stale = []) {
    for (const panel of stale) panel.isStale = true;
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      for (const panel of panels) panel.draw();
    });
  }

  const sized = new ResizeObserver(() => {
    for (const panel of panels) panel.resize();
    redraw();
  });
  for (const {points} of panels) sized.observe(points.parentElement);

  // ---- moving and pointing

  function showAll(panel) {
    panel.moveTo(0, 0, 1);
    redraw();
  }

  function center(i) {
    for (const panel of panels) panel.moveTo(panel.x[i], panel.y[i], Math.max(panel.zoom, 6));
    redraw();
  }

  function point(i, panel = null) {
    const tip = $("tip");
    scene.hovered = i;
    tip.hidden = i < 0 || !panel;
    if (!tip.hidden) {
      const source = picture(i), image = tip.querySelector("img");
      image.hidden = !source;
      if (source && image.src !== source) image.src = source;
      tip.querySelector(".name").textContent = names[i];
      tip.querySelector(".what").textContent = what(i);
      const box = panel.points.getBoundingClientRect();
      const px = box.left + panel.screenX[i], py = box.top + panel.screenY[i];
      const width = Math.max(tip.offsetWidth, 200), height = Math.max(tip.offsetHeight, 80);
      const tx = px + 18 + width > innerWidth ? px - 18 - width : px + 18;
      const ty = Math.min(innerHeight - height - 4, Math.max(4, py - height / 2));
      tip.style.transform = `translate(${Math.round(Math.max(4, Math.min(tx, innerWidth - width - 4)))}px, ${Math.round(ty)}px)`;
    }
    redraw();
  }

  // ---- selecting

  function select(chosen, {shiftKey = false, altKey = false} = {}) {
    if (!shiftKey && !altKey) selected.fill(0);
    for (const i of chosen) selected[i] = altKey ? 0 : 1;
    scene.numSelected = selected.reduce((sum, one) => sum + one, 0);
    numShown = STRIP;
    $("paths").hidden = true;
    redraw(panels);
    showSelection();
  }

  const chosen = () => [...selected.keys()].filter((i) => selected[i]);

  function showSelection() {
    const list = chosen();
    $("selection-heading").textContent = list.length ? `${list.length.toLocaleString("en")} selected` : "Nothing selected";
    for (const id of ["copy", "clear"]) $(id).hidden = !list.length;
    $("hint").hidden = list.length > 0;
    $("status").textContent = list.length ? `${list.length.toLocaleString("en")} of ${n.toLocaleString("en")} selected` : "";
    const counts = new Map();
    for (const i of list) counts.set(field.codes[i], (counts.get(field.codes[i]) ?? 0) + 1);
    const total = new Uint32Array(field.values.length);
    for (const code of field.codes) total[code]++;
    const most = [...counts].sort((a, b) => b[1] - a[1]);
    $("shares").replaceChildren(...most.map(([code, count]) => {
      const of = scene.classes.find(({codes}) => codes.includes(code));
      return element("li", {}, swatch(of), element("span", {textContent: shown(field.values[code]), title: shown(field.values[code])}),
        element("span", {className: "quiet", textContent: `${count} of ${total[code]}`}));
    }));
    $("strip").replaceChildren(...list.slice(0, numShown).map(thumbnail));
    $("more").hidden = list.length <= numShown;
    $("more").textContent = `Show more (${(list.length - numShown).toLocaleString("en")})`;
  }

  function thumbnail(i) {
    const source = picture(i);
    const inner = source ? element("img", {src: source, alt: names[i], loading: "lazy", decoding: "async"}) : names[i].split("/").pop();
    const button = element("button", {type: "button", title: `${names[i]}\n${what(i)}`}, inner);
    button.style.borderBottomColor = scene.classes[scene.classOf[i]].color;
    for (const event of ["pointerenter", "focus"]) button.addEventListener(event, () => point(i));
    for (const event of ["pointerleave", "blur"]) button.addEventListener(event, () => point(-1));
    button.addEventListener("click", () => center(i));
    return element("li", {}, button);
  }

  function swatch(of) {
    const made = element("i", {className: of.isSquare ? "swatch square" : "swatch"});
    made.style.background = of.color;
    return made;
  }

  function showLegend() {
    $("legend").replaceChildren(...(fields.length ? scene.classes : []).map((of) => {
      const toggle = element("button", {type: "button", className: "toggle", title: `Hide or show ${of.name}`},
        swatch(of), element("span", {textContent: of.name}), element("b", {textContent: of.count.toLocaleString("en")}));
      toggle.setAttribute("aria-pressed", !field.hidden.has(of.name));
      toggle.addEventListener("click", () => {
        if (!field.hidden.delete(of.name)) field.hidden.add(of.name);
        toggle.setAttribute("aria-pressed", !field.hidden.has(of.name));
        $("show-all").hidden = !field.hidden.size;
        redraw(panels);
      });
      const pick = element("button", {type: "button", className: "pick", textContent: "◎", title: `Select ${of.name}`});
      pick.setAttribute("aria-label", `Select ${of.name}`);
      pick.addEventListener("click", (event) => select([...names.keys()].filter((i) => scene.classes[scene.classOf[i]] === of), event));
      return element("li", {}, toggle, pick);
    }));
    $("show-all").hidden = !field.hidden.size;
  }

  // ---- events

  for (const panel of panels) {
    const {points} = panel;
    const pointers = new Map();
    let gesture = null; // "lasso", "move" or "pinch", and where it began
    const at = (event) => {
      const box = points.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    points.addEventListener("pointerdown", (event) => {
      const [px, py] = at(event);
      points.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, [px, py]);
      const isMove = mode === "move" || isSpaceDown || event.button > 0;
      gesture = {kind: pointers.size > 1 ? "pinch" : isMove ? "move" : "lasso", px, py, isClick: event.button === 0 && pointers.size === 1};
      panel.lasso = gesture.kind === "lasso" ? [px, py] : null;
    });
    points.addEventListener("pointermove", (event) => {
      const [px, py] = at(event);
      if (!pointers.has(event.pointerId)) return point(panel.nearest(px, py), panel);
      const [qx, qy] = pointers.get(event.pointerId);
      if (gesture.kind === "pinch") {
        const [ox, oy] = [...pointers].find(([id]) => id !== event.pointerId)?.[1] ?? [px, py];
        const before = Math.hypot(qx - ox, qy - oy), after = Math.hypot(px - ox, py - oy);
        panel.move((px - qx) / 2, (py - qy) / 2);
        if (before > 8 && after > 8) panel.zoomAt(after / before, (px + ox) / 2, (py + oy) / 2);
      } else if (gesture.kind === "move") {
        panel.move(px - qx, py - qy);
      } else {
        panel.lasso.push(px, py);
      }
      redraw();
      pointers.set(event.pointerId, [px, py]);
      if (Math.hypot(px - gesture.px, py - gesture.py) > 4) {
        gesture.isClick = false;
        point(-1);
      }
    });
    const end = (event) => {
      if (!pointers.delete(event.pointerId)) return;
      const lasso = panel.lasso;
      panel.lasso = null;
      if (event.type === "pointercancel") return redraw();
      const [px, py] = at(event);
      if (gesture.isClick) {
        const found = panel.nearest(px, py);
        point(found, panel);
        select(found < 0 ? [] : [found], {shiftKey: event.shiftKey, altKey: event.altKey || (event.shiftKey && selected[found])});
      } else if (gesture.kind === "lasso" && lasso?.length > 4) select(panel.inside(lasso), event);
      redraw();
    };
    points.addEventListener("pointerup", end);
    points.addEventListener("pointercancel", end);
    points.addEventListener("pointerleave", () => point(-1));
    points.addEventListener("contextmenu", (event) => event.preventDefault());
    points.addEventListener("dblclick", () => mode === "move" && showAll(panel));
    points.addEventListener("wheel", (event) => {
      event.preventDefault();
      const lines = event.deltaMode === 1 ? 30 : 1;
      panel.zoomAt(Math.exp(-Math.max(-240, Math.min(240, event.deltaY * lines)) * 0.0022), ...at(event));
      point(-1);
    }, {passive: false});
    points.addEventListener("keydown", (event) => {
      const arrow = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
      if (arrow && event.shiftKey) panel.move(-60 * arrow[0], -60 * arrow[1]);
      else if (arrow) {
        const found = panel.step(scene.hovered, ...arrow);
        panel.reveal(found);
        point(found, panel);
        $("spoken").textContent = `${names[found]}, ${what(found)}`;
      } else if (event.key === "Enter" && scene.hovered >= 0) {
        select([scene.hovered], {shiftKey: true, altKey: selected[scene.hovered] === 1});
      } else if (event.key === "+" || event.key === "=") panel.zoomAt(1.4);
      else if (event.key === "-") panel.zoomAt(1 / 1.4);
      else if (event.key === "0") showAll(panel);
      else return;
      redraw();
      event.preventDefault();
    });
    points.addEventListener("blur", () => point(-1));
    for (const button of panel.figure.querySelectorAll("[data-zoom]")) {
      button.addEventListener("click", () => {
        if (button.dataset.zoom === "all") showAll(panel);
        else panel.zoomAt(button.dataset.zoom === "in" ? 1.6 : 1 / 1.6);
        redraw();
      });
    }
  }

  function setMode(wanted) {
    mode = wanted;
    for (const button of document.querySelectorAll("[data-mode]")) button.setAttribute("aria-pressed", button.dataset.mode === mode);
    document.body.classList.toggle("moving", mode === "move" || isSpaceDown);
  }
  for (const button of document.querySelectorAll("[data-mode]")) button.addEventListener("click", () => setMode(button.dataset.mode));
  addEventListener("keydown", (event) => {
    if (event.key === "Escape" && scene.numSelected) select([]);
    if (event.key !== " " || !event.target.matches("body, canvas, main")) return;
    event.preventDefault();
    isSpaceDown = true;
    setMode(mode);
  });
  addEventListener("keyup", (event) => {
    if (event.key !== " ") return;
    isSpaceDown = false;
    setMode(mode);
  });

  function colorBy(key) {
    field = known.find((of) => of.key === key) ?? field;
    chooseColors();
    for (const button of document.querySelectorAll("[data-color]")) button.setAttribute("aria-pressed", button.dataset.color === field.key);
    showLegend();
    showSelection();
    redraw(panels);
  }

  function find(text) {
    const words = fold(text).split(/\s+/).filter(Boolean);
    if (!words.length) return select([]);
    select([...names.keys()].filter((i) => {
      const described = fold(`${names[i]} ${known.map((of) => of.values[of.codes[i]]).join(" ")}`);
      return words.every((word) => described.includes(word));
    }));
  }

  function remember(change) {
    const state = new URLSearchParams(location.hash.slice(1));
    for (const [key, value] of Object.entries(change)) value ? state.set(key, value) : state.delete(key);
    history.replaceState(null, "", `#${state}`);
  }

  function readAddress() {
    const state = new URLSearchParams(location.hash.slice(1));
    colorBy(state.get("color") ?? field.key);
    const text = state.get("find") ?? "";
    if (text !== $("find").value) find($("find").value = text);
  }

  for (const button of document.querySelectorAll("[data-color]")) {
    button.addEventListener("click", () => { colorBy(button.dataset.color); remember({color: button.dataset.color}); });
  }
  $("find").addEventListener("input", () => { find($("find").value); remember({find: $("find").value}); });
  $("show-all").addEventListener("click", () => { field.hidden.clear(); showLegend(); redraw(panels); });
  $("clear").addEventListener("click", () => { $("find").value = ""; remember({find: ""}); select([]); });
  $("more").addEventListener("click", () => { numShown += 3 * STRIP; showSelection(); });
  $("copy").addEventListener("click", async () => {
    const paths = chosen().map((i) => root + names[i]).join("\n");
    try {
      await navigator.clipboard.writeText(paths);
      $("copy").textContent = "Copied";
      setTimeout(() => { $("copy").textContent = "Copy paths"; }, 1500);
    } catch { // without the right to write to the clipboard, the paths stand ready for the keyboard
      Object.assign($("paths"), {hidden: false, value: paths});
      $("paths").select();
    }
  });
  dark.addEventListener("change", () => colorBy(field.key));
  addEventListener("hashchange", readAddress);
  addEventListener("scroll", () => point(-1), {passive: true});
  document.addEventListener("DOMContentLoaded", showSelection); // thumbnails that had not arrived
  readAddress();
})();
