"use strict";
(() => {
  const $ = (id) => document.getElementById(id);

  // ---- tables: a column's name sorts by it, numbers from large to small first

  const collator = new Intl.Collator("en", {numeric: true});
  function key(row, column) {
    const cell = row.cells[column], text = cell.textContent.trim();
    if (cell.dataset.value !== undefined && cell.dataset.value !== "None") return Number(cell.dataset.value);
    if (text === "–") return null;
    return text !== "" && !Number.isNaN(Number(text)) ? Number(text) : text;
  }

  function sort(table, column) {
    const head = table.tHead.rows[0].cells[column], body = table.tBodies[0];
    const rows = [...body.rows].map((row) => [key(row, column), row]);
    const isNumeric = rows.every(([value]) => typeof value !== "string");
    const was = head.getAttribute("aria-sort");
    const isDown = was ? was === "ascending" : isNumeric;
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", isDown ? "descending" : "ascending");
    rows.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null); // unknown ones last, either way
      const order = isNumeric ? a - b : collator.compare(a, b);
      return isDown ? -order : order;
    });
    body.append(...rows.map(([, row]) => row));
  }

  for (const table of document.querySelectorAll(".sortable")) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      if (head.querySelector(".visually-hidden")) return;
      const button = Object.assign(document.createElement("button"), {type: "button"});
      button.append(...head.childNodes);
      button.addEventListener("click", () => sort(table, column));
      head.append(button);
    });
  }
  for (const scroll of document.querySelectorAll(".scroll")) { // for keys to scroll what is too wide
    if (scroll.scrollWidth > scroll.clientWidth + 1) scroll.tabIndex = 0;
  }

  // ---- the matrices of pairs: what is pointed at is said in words below

  for (const matrix of document.querySelectorAll(".matrix")) {
    const readout = matrix.closest("details").querySelector(".readout"), heads = matrix.tHead.rows[0].cells;
    let marked = [];
    const point = (event) => {
      const cell = event.target.closest("td[title]");
      for (const old of marked) old.classList.remove("pointed", "level");
      marked = cell ? [cell] : [];
      readout.textContent = cell ? cell.title : "\u00a0";
      if (!cell) return;
      cell.classList.add("pointed");
      heads[cell.cellIndex].classList.add("level");
      marked.push(heads[cell.cellIndex]);
    };
    for (const name of ["pointerover", "click"]) matrix.addEventListener(name, point);
  }

  // ---- the maps

  if (!$("map-content")) return;
  const {classes: given, classOf, places} = JSON.parse($("map-content").textContent);
  const n = classOf.length;
  const scattered = [...classOf.keys()];
  for (let i = n - 1, state = 1; i > 0; i--) {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    const j = Math.floor(state / 4294967296 * (i + 1));
    [scattered[i], scattered[j]] = [scattered[j], scattered[i]];
  }
  scattered.sort((a, b) => given[classOf[a]].isFront - given[classOf[b]].isFront); // anomalies in front
  const scene = {
    n, order: Uint32Array.from(scattered), classOf: Uint16Array.from(classOf), classes: [],
    selected: new Uint8Array(n), numSelected: 0, hovered: -1, hidden: new Set(), isHidden: () => false,
  };
  const panels = [...document.querySelectorAll(".map")].map((figure, k) => new MapPanel(figure, places[k], scene));

  function showLegend() {
    scene.classes = given.map((of) => ({...of, color: MapPanel.color(of.color)}));
    const counts = new Uint32Array(given.length);
    for (const code of classOf) counts[code]++;
    $("map-legend").replaceChildren(...scene.classes.flatMap(({name, color, isSquare}, code) => {
      if (!counts[code]) return [];
      const item = document.createElement("li"), swatch = document.createElement("i"), count = document.createElement("span");
      swatch.className = isSquare ? "swatch square" : "swatch";
      swatch.style.background = color;
      Object.assign(count, {className: "quiet", textContent: `\u00a0${counts[code].toLocaleString("en")}`});
      item.append(swatch, name, count);
      return [item];
    }));
  }

  let frame = 0;
  function redraw(isStale = false) {
    for (const panel of panels) panel.isStale ||= isStale;
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      for (const panel of panels) panel.draw();
    });
  }

  function say() {
    const counts = new Map();
    for (let i = 0; i < n; i++) if (scene.selected[i]) counts.set(classOf[i], (counts.get(classOf[i]) ?? 0) + 1);
    const shares = [...counts].sort((a, b) => b[1] - a[1]).map(([code, count]) => `${count} ${given[code].name}`);
    const pointed = scene.hovered >= 0 ? `Pointing at: ${given[classOf[scene.hovered]].name}` : "\u00a0";
    $("map-status").textContent = scene.numSelected ? `${scene.numSelected} selected: ${shares.join(", ")}` : pointed;
    $("map-clear").hidden = !scene.numSelected;
  }

  function select(chosen) {
    scene.selected.fill(0);
    for (const i of chosen) scene.selected[i] = 1;
    scene.numSelected = chosen.length;
    say();
    redraw(true);
  }

  for (const panel of panels) {
    const at = (event) => {
      const box = panel.points.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    panel.points.addEventListener("pointerdown", (event) => {
      panel.points.setPointerCapture(event.pointerId);
      panel.lasso = at(event);
    });
    panel.points.addEventListener("pointermove", (event) => {
      if (panel.lasso) panel.lasso.push(...at(event));
      else scene.hovered = panel.nearest(...at(event));
      say();
      redraw();
    });
    panel.points.addEventListener("pointerup", () => {
      const lasso = panel.lasso ?? [];
      panel.lasso = null;
      select(lasso.length > 4 ? panel.inside(lasso) : []);
    });
    for (const name of ["pointerleave", "pointercancel"]) {
      panel.points.addEventListener(name, () => {
        if (name === "pointercancel") panel.lasso = null;
        scene.hovered = -1;
        say();
        redraw();
      });
    }
  }
  $("map-clear").addEventListener("click", () => select([]));
  addEventListener("keydown", (event) => { if (event.key === "Escape") select([]); });
  const sized = new ResizeObserver(() => {
    for (const panel of panels) panel.resize();
    redraw();
  });
  for (const {points} of panels) sized.observe(points.parentElement);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { showLegend(); redraw(true); });
  showLegend();
})();
