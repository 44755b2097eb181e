
"use strict";
(() => {
  const NUM_FIRST = 50; // rows shown at first
  const REACH = 18; // pixels within which a trial is pointed at
  const $ = (id) => document.getElementById(id);
  const table = $("table");
  const rows = table ? [...table.tBodies[0].rows] : [];
  const heads = table ? [...table.tHead.rows[0].cells] : [];
  const rowOf = new Map(rows.map((row) => [row.dataset.n, row]));
  const shapes = new Map(); // number of a trial -> what stands for it in the figures
  for (const shape of document.querySelectorAll("circle[data-n], polyline[data-n]")) {
    if (!shapes.has(shape.dataset.n)) shapes.set(shape.dataset.n, []);
    shapes.get(shape.dataset.n).push(shape);
  }
  const titles = heads.map((head) => head.textContent);

  // ---- pointing at a trial shows it in all figures

  let hot = null, raised = null;
  function point(number, x = 0, y = 0) {
    if (number !== hot) {
      for (const shape of shapes.get(hot) ?? []) shape.classList.remove("hot");
      raised?.remove();
      raised = null;
      hot = number;
      for (const shape of shapes.get(hot) ?? []) {
        if (shape.classList.contains("best") && shape.localName === "circle") continue;
        shape.classList.add("hot");
        if (shape.localName === "polyline") shape.parentElement.append((raised = shape.cloneNode())); // above the others
      }
      if (hot !== null) describe(rowOf.get(hot));
    }
    const tip = $("tip");
    tip.hidden = hot === null || !y;
    if (tip.hidden) return;
    const left = x + 20 + tip.offsetWidth > innerWidth ? x - 20 - tip.offsetWidth : x + 20;
    const top = Math.max(4, Math.min(y - tip.offsetHeight / 2, innerHeight - tip.offsetHeight - 4));
    tip.style.transform = `translate(${Math.round(Math.max(4, left))}px, ${Math.round(top)}px)`;
  }

  function describe(row) {
    const list = document.createElement("dl");
    [...row.cells].forEach((cell, place) => {
      const text = cell.textContent.trim();
      if (text === "–") return;
      const name = document.createElement("dt"), value = document.createElement("dd");
      name.textContent = titles[place];
      value.textContent = text;
      list.append(name, value);
    });
    $("tip").replaceChildren(list);
  }

  for (const figure of document.querySelectorAll("svg.points")) {
    const circles = [...figure.querySelectorAll("circle[data-n]")];
    figure.addEventListener("pointermove", (event) => {
      const box = figure.getBoundingClientRect();
      let found = null, nearest = REACH;
      for (const circle of circles) {
        if (circle.classList.contains("out")) continue;
        const away = Math.hypot(circle.cx.baseVal.value + box.left - event.clientX, circle.cy.baseVal.value + box.top - event.clientY);
        if (away < nearest) [found, nearest] = [circle.dataset.n, away];
      }
      point(found, event.clientX, event.clientY);
    });
    figure.addEventListener("pointerleave", () => point(null));
  }
  for (const row of rows) {
    row.addEventListener("pointerenter", () => point(row.dataset.n));
    row.addEventListener("pointerleave", () => point(null));
  }

  // ---- parallel coordinates: the nearest line, and a stretch of an axis that lines must pass

  const lines = document.querySelector("svg.lines");
  if (lines) {
    const all = [...lines.querySelectorAll("polyline")].map((line) => ({
      line, places: line.getAttribute("points").trim().split(" ").map((pair) => Number(pair.split(",")[1])),
    }));
    const numAxes = all[0].places.length;
    const brushes = new Map(); // axis -> {low, high, rect}
    let drag = null;
    const place = (event) => {
      const box = lines.getBoundingClientRect();
      return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height, box];
    };
    const nearest = (event) => {
      const [x, y, box] = place(event);
      const along = Math.min(Math.max(x * numAxes - 0.5, 0), numAxes - 1);
      const left = Math.min(Math.floor(along), Math.max(numAxes - 2, 0));
      let found = null, least = REACH / box.height;
      for (const {line, places} of all) {
        if (line.classList.contains("out")) continue;
        const at = places[left] + (along - left) * ((places[left + 1] ?? places[left]) - places[left]);
        if (Math.abs(at - y) <= least) [found, least] = [line.dataset.n, Math.abs(at - y)];
      }
      return found;
    };

    function filter() {
      for (const {line, places} of all) {
        const isOut = [...brushes].some(([axis, {low, high}]) => places[axis] < low || places[axis] > high);
        for (const shape of shapes.get(line.dataset.n)) shape.classList.toggle("out", isOut);
      }
      $("clear").hidden = !brushes.size;
    }

    function clear(axis) {
      brushes.get(axis)?.rect.remove();
      brushes.delete(axis);
    }

    lines.addEventListener("pointerdown", (event) => {
      const [x, y] = place(event);
      const axis = Math.min(numAxes - 1, Math.max(0, Math.floor(x * numAxes)));
      lines.setPointerCapture(event.pointerId);
      drag = {axis, from: y};
      clear(axis);
      filter();
      point(null);
    });
    lines.addEventListener("pointermove", (event) => {
      if (!drag) return point(nearest(event), event.clientX, event.clientY);
      const [, y] = place(event);
      if (Math.abs(y - drag.from) < 0.015) return;
      const [low, high] = [Math.min(y, drag.from), Math.max(y, drag.from)];
      clear(drag.axis);
      const rect = document.createElementNS(lines.namespaceURI, "rect");
      const x = 100 * (drag.axis + 0.5) / numAxes;
      for (const [name, value] of Object.entries({
        class: "brush", x: `${x - 0.7}%`, width: "1.4%", y: `${100 * low}%`, height: `${100 * (high - low)}%`,
      })) rect.setAttribute(name, value);
      lines.append(rect);
      brushes.set(drag.axis, {low, high, rect});
      filter();
    });
    for (const event of ["pointerup", "pointercancel"]) lines.addEventListener(event, () => { drag = null; });
    lines.addEventListener("pointerleave", () => point(null));
    $("clear").addEventListener("click", () => {
      for (const axis of [...brushes.keys()]) clear(axis);
      filter();
    });
  }

  // ---- the table

  let isWhole = rows.length <= NUM_FIRST;
  const more = $("more");
  function showRows(order) {
    order.forEach((row, place) => { row.hidden = !isWhole && place >= NUM_FIRST; });
    if (more) more.hidden = isWhole;
  }

  const numberIn = (text) => (/^[−-]?[\d.]+(e[+-]?\d+)?$/i.test(text) ? Number(text.replace("−", "-")) : NaN);
  heads.forEach((head, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      const keys = new Map(rows.map((row) => [row, row.cells[place].textContent.trim()]));
      const order = [...rows].sort((a, b) => {
        const [one, two] = [keys.get(a), keys.get(b)];
        if (one === "–" || two === "–") return (one === "–") - (two === "–"); // what is unknown stands last either way
        const [m, n] = [numberIn(one), numberIn(two)];
        return sign * (Number.isNaN(m) || Number.isNaN(n) ? one.localeCompare(two) : m - n);
      });
      table.tBodies[0].append(...order);
      showRows(order);
    });
  });
  more?.addEventListener("click", () => {
    isWhole = true;
    showRows([...table.tBodies[0].rows]);
  });
  showRows(rows);

  // ---- copying the settings

  const copy = $("copy");
  if (copy) {
    copy.hidden = false;
    copy.addEventListener("click", async () => {
      const text = $("toml").textContent;
      try {
        await navigator.clipboard.writeText(`${text}\n`);
        copy.textContent = "Copied";
      } catch { // a page opened from a file may not: its text is selected, to copy by hand
        getSelection().selectAllChildren($("toml"));
        copy.textContent = "Selected; copy it";
      }
    });
  }
})();
