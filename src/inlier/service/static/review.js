"use strict";
(() => {
  const $ = (selector, root = document) => root.querySelector(selector);
  const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
  const say = (text) => { $("#status").textContent = text; };
  const kept = (name) => { try { return JSON.parse(sessionStorage.getItem(name)); } catch { return null; } };
  const keep = (name, value) => { try { sessionStorage.setItem(name, JSON.stringify(value)); } catch { /* full, or forbidden */ } };
  const isTyping = (target) => target.closest?.("input:not([type=radio], [type=checkbox], [type=range]), textarea, select, dialog");
  const isPlain = (event) => !(event.ctrlKey || event.metaKey || event.altKey);

  // ---- What went wrong stays in sight, and so does what was marked.
  const banner = $("#connection");
  const warn = (text) => { banner.textContent = text; banner.hidden = !text; };
  const LOST = "The service cannot be reached. What you marked is still on this page; try again when the connection is back.";
  document.addEventListener("htmx:error", () => warn(LOST));
  document.addEventListener("htmx:response:error", ({detail: {ctx}}) => {
    const page = new DOMParser().parseFromString(ctx.text, "text/html");
    const sentence = $(".lead", page)?.textContent || `The service answered with status ${ctx.response.status}.`;
    warn(ctx.response.status === 401 ? "You are signed out. Sign in in another tab; what you marked stays here." : sentence);
  });
  window.addEventListener("offline", () => warn(LOST));
  window.addEventListener("online", () => warn(""));
  document.addEventListener("htmx:before:request", ({target}) => target.setAttribute?.("aria-busy", "true"));
  document.addEventListener("htmx:finally:request", ({target}) => target.removeAttribute?.("aria-busy"));

  // ---- Words and classes, on any page.
  const wordOf = (box) => $(".word input:checked", box)?.value ?? "";
  const setWord = (box, word) => {
    const input = $(`.word input[value=${word}]`, box);
    input.checked = true;
    input.dispatchEvent(new Event("change", {bubbles: true}));
    say(word);
  };
  const setClass = (box, digit) => {
    const select = $("[data-class]", box);
    if (!select || digit >= select.options.length) return;
    select.selectedIndex = digit;
    select.dispatchEvent(new Event("change", {bubbles: true}));
    say(digit ? select.options[digit].text : "no class named");
  };

  // ---- The grid.
  const DRAFT = "inlier-review-draft";
  let isSure = false; // the reviewer has been told that photos without a word are left open
  const tiles = () => $$("[data-tile]");
  const tileNow = () => document.activeElement?.closest?.("[data-tile]") ?? $("[data-tile][tabindex='0']");
  const focusTile = (tile) => {
    if (!tile) return;
    for (const other of tiles()) other.tabIndex = other === tile ? 0 : -1;
    tile.focus();
  };
  const move = (from, steps) => {
    const all = tiles(), to = all.indexOf(from) + steps;
    if (to >= 0 && to < all.length) focusTile(all[to]);
  };
  const numColumns = () => {
    const all = tiles(), top = all[0]?.getBoundingClientRect().top;
    return Math.max(1, all.filter((tile) => tile.getBoundingClientRect().top === top).length);
  };
  const showHeat = (isOn) => {
    for (const image of $$(".contour")) {
      if (isOn && !image.src) image.src = image.dataset.src;
      image.hidden = !isOn;
    }
    $("[data-heat]")?.setAttribute("aria-pressed", isOn);
    keep("inlier-review-heat", isOn);
  };
  const setUpGrid = () => {
    const grid = $("[data-grid]");
    if (!grid) return;
    isSure = false;
    const draft = kept(DRAFT) ?? {};
    for (const tile of tiles()) {
      for (const control of $$("input, select, a", tile)) control.tabIndex = -1;
      const [word, label] = draft[tile.dataset.tile] ?? [];
      if (word) $(`.word input[value=${word}]`, tile).checked = true;
      if (label && $("[data-class]", tile)) $("[data-class]", tile).value = label;
    }
    const heat = $("[data-heat]");
    heat.hidden = false;
    showHeat(kept("inlier-review-heat") === true);
    const named = location.hash.startsWith("#photo-") && document.getElementById(location.hash.slice(1));
    const first = named || tiles()[0];
    if (document.activeElement === document.body || !document.activeElement?.isConnected || grid.dataset.isNext) focusTile(first);
    else if (first) first.tabIndex = 0;
    if (grid.dataset.message) say(grid.dataset.message);
  };
  document.addEventListener("change", ({target}) => {
    const tile = target.closest?.("[data-tile]");
    if (!tile) return;
    isSure = false;
    keep(DRAFT, {...kept(DRAFT), [tile.dataset.tile]: [wordOf(tile), $("[data-class]", tile)?.value ?? ""]});
  });
  document.addEventListener("submit", (event) => {
    if (!event.target.matches("[data-grid]") || event.submitter?.matches("[data-undo]")) return;
    const open = tiles().filter((tile) => !wordOf(tile));
    if (!open.length || isSure) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    isSure = true;
    const number = open.length === 1 ? "1 photo is" : `${open.length} photos are`;
    let message = $(".grid > .message");
    if (!message) $(".tiles").before(message = Object.assign(document.createElement("p"), {className: "message"}));
    message.textContent = `${number} not marked yet. Mark with a or r, or take the page once more to leave them open.`;
    say(message.textContent);
    focusTile(open[0]);
  }, true);
  const gridKey = (event) => {
    const {key, target} = event, tile = tileNow();
    const isControl = target.closest("button, a, summary");
    if (key === "Enter" && !isControl && $("[data-take]")) $("[data-grid]").requestSubmit($("[data-take]"));
    else if (key === "u") $("[data-undo]").click();
    else if (key === "h") showHeat($("[data-heat]").getAttribute("aria-pressed") !== "true");
    else if (!tile) return false;
    else if (key === "o") $("[data-open]", tile).click();
    else if (key === "a" || key === "r") { setWord(tile, key === "a" ? "normal" : "anomalous"); move(tile, 1); }
    else if (key === " " && !isControl) setWord(tile, wordOf(tile) === "anomalous" ? "normal" : "anomalous");
    else if (/^[0-9]$/.test(key)) setClass(tile, Number(key));
    else if (key === "ArrowRight") move(tile, 1);
    else if (key === "ArrowLeft") move(tile, -1);
    else if (key === "ArrowDown") move(tile, numColumns());
    else if (key === "ArrowUp") move(tile, -numColumns());
    else if (key === "Home") focusTile(tiles()[0]);
    else if (key === "End") focusTile(tiles().at(-1));
    else return false;
    return true;
  };
  document.addEventListener("click", (event) => {
    const tile = event.target.closest?.("[data-tile]");
    if (event.target.closest?.("[data-heat]")) showHeat($("[data-heat]").getAttribute("aria-pressed") !== "true");
    if (!tile || event.target.closest("a, select")) return;
    if (event.target.closest("[data-picture]")) setWord(tile, wordOf(tile) === "anomalous" ? "normal" : "anomalous");
    focusTile(tile);
  });
  document.addEventListener("htmx:after:swap", ({detail: {ctx}}) => {
    if (ctx.response.status >= 400) return; // nothing was swapped
    warn("");
    const grid = $("[data-grid]"), state = $("#state")?.dataset.state;
    if (state && state !== "running") say(state === "done" ? "The new model is ready to be looked at." : "The refit broke off.");
    if (grid) {
      const draft = kept(DRAFT) ?? {}; // what was sent is no draft any more
      for (const number of sent) delete draft[number];
      keep(DRAFT, draft);
      grid.dataset.isNext = "1";
      setUpGrid();
      window.scrollTo({top: 0});
    }
    if ($("#regions")) setUpRegions();
  });
  let sent = [];
  document.addEventListener("htmx:before:request", ({target}) => {
    if (target.closest?.("[data-grid]")) sent = tiles().map((tile) => tile.dataset.tile);
  });

  // ---- The photo.
  const view = $("#view"), stage = $("[data-stage]");
  const width = Number(view?.dataset.width), height = Number(view?.dataset.height);
  const SVG = "http://www.w3.org/2000/svg";
  let box = {x: 0, y: 0, zoom: 1};
  const at = ({clientX, clientY}) => new DOMPoint(clientX, clientY).matrixTransform(view.getScreenCTM().inverse());
  const look = ({x, y, zoom}) => {
    zoom = Math.min(Math.max(zoom, 1), 16);
    const limit = (value, size) => Math.min(Math.max(value, 0), size - size / zoom);
    box = {x: limit(x, width), y: limit(y, height), zoom};
    view.setAttribute("viewBox", `${box.x} ${box.y} ${width / zoom} ${height / zoom}`);
    const image = $("image.plain", view);
    if (zoom >= 2 && image.dataset.large) {
      image.setAttribute("href", image.dataset.large);
      delete image.dataset.large;
    }
  };
  const zoomAt = (factor, point = {x: box.x + width / box.zoom / 2, y: box.y + height / box.zoom / 2}) => {
    const zoom = Math.min(Math.max(box.zoom * factor, 1), 16), ratio = box.zoom / zoom;
    look({x: point.x - (point.x - box.x) * ratio, y: point.y - (point.y - box.y) * ratio, zoom});
  };
  const setHeat = (share) => $("image.heat", view)?.setAttribute("opacity", share);
  const toggleHeat = () => {
    const slider = $("[data-heat-slider]");
    if (!slider) return;
    slider.value = Number(slider.value) > 0 ? 0 : 100;
    setHeat(slider.value / 100);
  };
  const point = (name, attributes, parent) => {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return parent.appendChild(element);
  };

  let pen = "", corners = [];
  const scaled = (polygon) => polygon.map(([x, y]) => `${x * width},${y * height}`).join(" ");
  const showPen = () => {
    const group = $("#pen");
    group.replaceChildren();
    if (corners.length) {
      for (const kind of ["under", "over"]) point("polyline", {points: scaled(corners), class: kind}, group);
      point("circle", {cx: corners[0][0] * width, cy: corners[0][1] * height, r: 9 / box.zoom}, group);
    }
    for (const button of $$("[data-pen]")) {
      if (["draw", "erase"].includes(button.dataset.pen)) button.setAttribute("aria-pressed", pen === button.dataset.pen);
      else button.disabled = corners.length < (button.dataset.pen === "close" ? 3 : 1);
    }
    stage.classList.toggle("drawing", pen === "draw");
    stage.classList.toggle("erasing", pen === "erase");
  };
  const setPen = (mode) => {
    pen = pen === mode ? "" : mode;
    corners = [];
    showPen();
    say(pen === "draw" ? "Drawing: tap corners, then close." : pen === "erase" ? "Erasing: tap a region." : "");
  };
  const close = () => {
    if (corners.length < 3) return;
    const form = $("[data-draw-form]");
    form.elements.polygon.value = JSON.stringify(corners.map((corner) => corner.map((of) => Number(of.toFixed(4)))));
    corners = [];
    form.requestSubmit();
  };
  const addCorner = (event, least) => {
    const {x, y} = at(event), corner = [x / width, y / height].map((of) => Math.min(Math.max(of, 0), 1));
    const away = ([cx, cy]) => Math.hypot((cx - corner[0]) * width, (cy - corner[1]) * height) * view.getScreenCTM().a;
    if (corners.length > 2 && least === 0 && away(corners[0]) < 16) return close();
    if (corners.length && away(corners.at(-1)) < least) return;
    if (corners.length < 900) corners.push(corner);
    showPen();
  };
  const setUpRegions = () => {
    const group = $("#marks");
    if (!group) return;
    group.replaceChildren();
    for (const item of $$("#regions [data-polygon]")) {
      const points = scaled(JSON.parse(item.dataset.polygon));
      point("polygon", {points, class: "under"}, group);
      const shape = point("polygon", {points, class: item.dataset.kind}, group);
      shape.addEventListener("click", () => { if (pen === "erase") $("form", item).requestSubmit(); });
    }
    for (const tools of $$("[data-pen-tools], [data-drawing-help]")) tools.hidden = false;
    if ($("#regions").dataset.message) say($("#regions").dataset.message);
    showPen();
  };
  const setUpPhoto = () => {
    if (!view) return;
    $("[data-view-tools]").hidden = false;
    $("[data-heat-slider]")?.addEventListener("input", ({target}) => setHeat(target.value / 100));
    const fingers = new Map();
    let before = null;
    const spread = () => {
      const [a, b] = [...fingers.values()];
      return {distance: Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY), clientX: (a.clientX + b.clientX) / 2, clientY: (a.clientY + b.clientY) / 2};
    };
    stage.addEventListener("wheel", (event) => {
      event.preventDefault();
      zoomAt(Math.exp(-event.deltaY / 400), at(event));
    }, {passive: false});
    stage.addEventListener("pointerdown", (event) => {
      if (event.button > 0) return;
      fingers.set(event.pointerId, event);
      if (fingers.size === 2) { corners.pop(); before = spread(); return; }
      if (pen !== "erase") stage.setPointerCapture(event.pointerId);
      if (pen === "draw") addCorner(event, 0);
      before = event;
    });
    stage.addEventListener("pointermove", (event) => {
      if (!fingers.has(event.pointerId)) return;
      fingers.set(event.pointerId, event);
      if (fingers.size === 2) {
        const now = spread(), was = at(before);
        zoomAt(now.distance / Math.max(before.distance, 1), was);
        const is = at(now);
        look({x: box.x + was.x - is.x, y: box.y + was.y - is.y, zoom: box.zoom});
        before = now;
      } else if (pen === "draw") addCorner(event, 9);
      else if (before && !pen) {
        const was = at(before), is = at(event);
        look({x: box.x + was.x - is.x, y: box.y + was.y - is.y, zoom: box.zoom});
        before = event;
      }
    });
    for (const type of ["pointerup", "pointercancel"]) stage.addEventListener(type, (event) => {
      fingers.delete(event.pointerId);
      before = fingers.size === 1 ? [...fingers.values()][0] : null;
    });
    stage.addEventListener("dblclick", (event) => { if (pen === "draw") close(); else zoomAt(2, at(event)); });
    for (const reason of $$("[data-reason]")) {
      const mark = (isOn) => {
        reason.classList.toggle("active", isOn);
        $(`[data-box="${reason.dataset.reason}"]`)?.classList.toggle("active", isOn);
      };
      for (const type of ["pointerenter", "focus"]) reason.addEventListener(type, () => mark(true));
      for (const type of ["pointerleave", "blur"]) reason.addEventListener(type, () => mark(document.activeElement === reason && type !== "blur"));
    }
    $("[data-decide]").addEventListener("submit", () => {
      const draft = kept(DRAFT) ?? {};
      delete draft[$("[data-photo]").dataset.photo];
      keep(DRAFT, draft);
    });
    setUpRegions();
  };
  document.addEventListener("click", ({target}) => {
    const zoom = target.closest?.("[data-zoom]")?.dataset.zoom, tool = target.closest?.("[data-pen]")?.dataset.pen;
    if (zoom === "all") look({x: 0, y: 0, zoom: 1});
    else if (zoom) zoomAt(zoom === "in" ? 1.5 : 1 / 1.5);
    if (tool === "close") close();
    else if (tool === "point") { corners.pop(); showPen(); }
    else if (tool) setPen(tool);
  });
  const photoKey = (event) => {
    const {key, target} = event, form = $("[data-decide]"), step = width / box.zoom / 8;
    const isStage = target === stage, isControl = target.closest("button, a, summary");
    const pan = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[key];
    if (pen === "draw" && key === "Enter" && !isControl) close();
    else if (pen === "draw" && key === "Backspace") { corners.pop(); showPen(); }
    else if (pen && key === "Escape") setPen(pen);
    else if (key === "Enter" && !isControl) form.requestSubmit();
    else if (key === "a" || key === "r") setWord(form, key === "a" ? "normal" : "anomalous");
    else if (key === "+" || key === "=") zoomAt(1.5);
    else if (key === "-") zoomAt(1 / 1.5);
    else if (isStage && key === "0") look({x: 0, y: 0, zoom: 1});
    else if (isStage && pan) look({x: box.x + pan[0] * step, y: box.y + pan[1] * step, zoom: box.zoom});
    else if (/^[0-9]$/.test(key)) setClass(form, Number(key));
    else if (key === "h") toggleHeat();
    else if (key === "d") setPen("draw");
    else if (key === "g") $("[data-back]").click();
    else return false;
    return true;
  };

  // ---- Keys, and where they are explained.
  const help = $("#help");
  if (help) {
    $("[data-help-open]").hidden = false;
    $("[data-help-open]").addEventListener("click", () => help.showModal());
  }
  document.addEventListener("keydown", (event) => {
    if (!isPlain(event) || isTyping(event.target) || help?.open) return;
    if (event.target.type === "range" && event.key.startsWith("Arrow")) return;
    if (event.key === "?" && help) help.showModal();
    else if (!(($("[data-grid]") && gridKey(event)) || (view && photoKey(event)))) return;
    event.preventDefault();
  });
  setUpGrid();
  setUpPhoto();
})();
