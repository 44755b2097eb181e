
"use strict";
(() => {
  const GROUP = 24; // cards that are filled and emptied together
  const NAMES = {reject: "Reject", uncertain: "Uncertain", accept: "Accept"};
  const $ = (id) => document.getElementById(id);
  const cards = $("cards"), query = $("query"), viewer = $("viewer"), wipe = $("wipe");
  const filters = [...document.querySelectorAll("[data-filter]")];
  const records = []; // every photo so far: its block of JSON, and what a filter looks at
  let shown = []; // the readable ones that match the filter
  let wanted = {verdict: "all", query: ""};
  let groupHeight = 9000; // a guess, until a full group has been laid out
  let position = 0; // of the photo in the viewer among those shown

  const fold = (text) => text.normalize("NFC").toLowerCase();
  const content = (record) => JSON.parse(record.block.textContent);
  const name = (path) => path.split(/[\\/]/).pop();
  const picture = (base64) => `data:image/webp;base64,${base64}`;

  function element(tag, properties, ...children) {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  }

  // Reads the blocks that have arrived. While the file is still loading the last one may be cut short.
  function collect() {
    const blocks = $("data")?.children ?? [];
    const complete = document.readyState === "loading" ? blocks.length - 1 : blocks.length;
    const first = records.length;
    for (let i = first; i < complete; i++) {
      records.push({block: blocks[i], verdict: blocks[i].dataset.verdict, path: fold(blocks[i].dataset.path)});
    }
    append(records.slice(first));
  }

  function append(fresh) {
    const text = fold(wanted.query);
    const list = $("unreadable").querySelector("ul");
    for (const record of fresh) {
      if (wanted.verdict !== "all" && wanted.verdict !== record.verdict) continue;
      if (!record.path.includes(text)) continue;
      if (record.verdict !== "unreadable") {
        shown.push(record);
        continue;
      }
      const {path, error} = content(record);
      list.append(element("li", {}, element("code", {textContent: path}), element("span", {textContent: error ?? "", className: "quiet"})));
    }
    if (cards.lastElementChild?.childElementCount) fill(cards.lastElementChild);
    for (let i = cards.childElementCount; i * GROUP < shown.length; i++) {
      const group = element("div", {className: "group"});
      group.dataset.index = i;
      group.style.minHeight = `${groupHeight}px`;
      cards.append(group);
      if (i === 0) fill(group);
      nearby.observe(group);
    }
    const found = shown.length + list.childElementCount;
    $("unreadable").hidden = !list.childElementCount;
    $("nothing").hidden = found > 0 || document.readyState === "loading";
    $("status").textContent = document.readyState === "loading" ? "Loading …"
      : found === records.length ? "" : `${found} of ${records.length}`;
  }

  // Only the groups near the window hold cards; the others hold their place.
  const nearby = new IntersectionObserver((entries) => {
    for (const {target, isIntersecting} of entries) (isIntersecting ? fill : empty)(target);
  }, {rootMargin: "100% 0px"});

  function fill(group) {
    const start = group.dataset.index * GROUP;
    for (const record of shown.slice(start + group.childElementCount, start + GROUP)) group.append(card(record));
    group.style.minHeight = "";
    if (group.childElementCount === GROUP) groupHeight = group.offsetHeight;
  }

  function empty(group) {
    if (!group.childElementCount || group.contains(document.activeElement)) return;
    group.style.minHeight = `${group.offsetHeight}px`;
    group.replaceChildren();
  }

  function card(record) {
    const made = $("card-template").content.cloneNode(true).firstElementChild;
    const photo = content(record);
    const button = made.querySelector(".pictures");
    made.setAttribute("aria-label", photo.path);
    made.classList.toggle("plain", !photo.heatmap);
    button.setAttribute("aria-label", `Enlarge ${name(photo.path)}`);
    button.addEventListener("click", () => { show(shown.indexOf(record)); viewer.showModal(); });
    pictures(button, photo);
    details(made.querySelector(".details"), photo);
    return made;
  }

  function pictures(parent, photo) {
    const [plain, heated] = [parent.querySelector(".photo"), parent.querySelector(".heatmap")];
    plain.src = picture(photo.photo);
    plain.alt = `Photo ${name(photo.path)}`;
    heated.hidden = !photo.heatmap;
    if (!photo.heatmap) return heated.removeAttribute("src");
    heated.src = picture(photo.heatmap);
    heated.alt = `Heatmap of ${name(photo.path)}`;
  }

  function details(parent, photo) {
    const made = $("details-template").content.cloneNode(true);
    const set = (selector, text) => { made.querySelector(selector).textContent = text; };
    made.querySelector(".verdict").classList.add(photo.verdict);
    made.querySelector(".mark").classList.add(photo.verdict);
    set(".verdict strong", NAMES[photo.verdict]);
    set(".meaning", photo.meaning);
    set(".numbers", [`score ${photo.score}`, `p-value ${photo.p}`, ...(photo.component ? [`most like ${photo.component}`] : []), ...photo.remarks].join(" · "));
    set(".path code", photo.path);
    made.querySelector(".copy").addEventListener("click", copy);
    const whole = photo.evidence.filter((pair) => pair.crop === null).length;
    set(".evidence h3", whole === 0 ? "This place, and the normal place most like it"
      : whole === photo.evidence.length ? "The normal photos most like this one"
      : "The normal places and photos most like this one");
    made.querySelector(".evidence ul").append(...photo.evidence.map(evidence));
    made.querySelector(".evidence").hidden = !photo.evidence.length;
    parent.replaceChildren(made);
  }

  function evidence(view) {
    const images = [element("img", {src: picture(view.reference_crop), alt: `Most similar normal ${view.crop ? "place" : "photo"}`, decoding: "async"})];
    if (view.crop) images.unshift(element("img", {src: picture(view.crop), alt: "This place", decoding: "async"}));
    return element("li", {}, element("figure", {},
      element("div", {className: "pair"}, ...images),
      element("figcaption", {className: "quiet"},
        element("span", {textContent: view.reference}), element("span", {textContent: `distance ${view.distance}`}))));
  }

  // Without the right to write to the clipboard, the path is selected, ready for the keyboard.
  async function copy({currentTarget: button}) {
    const code = button.previousElementSibling;
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    } catch {
      getSelection().selectAllChildren(code);
    }
  }

  function show(index) {
    if (index < 0 || index >= shown.length) return;
    position = index;
    const photo = content(shown[index]);
    const layers = viewer.querySelector(".layers");
    layers.classList.toggle("plain", !photo.heatmap);
    pictures(layers, photo);
    details(viewer.querySelector(".details"), photo);
    viewer.querySelector(".details").scrollTop = 0;
    $("viewer-position").textContent = `${index + 1} of ${shown.length}`;
    $("previous").disabled = index === 0;
    $("next").disabled = index === shown.length - 1;
  }

  // The list follows the viewer: the card of the photo seen last is in sight, and has the focus.
  function follow() {
    const group = cards.children[Math.floor(position / GROUP)];
    if (!group) return;
    fill(group);
    const button = group.children[position % GROUP].querySelector(".pictures");
    button.focus({preventScroll: true});
    button.scrollIntoView({block: "nearest"});
  }

  function choose(change) {
    wanted = {...wanted, ...change};
    const state = new URLSearchParams();
    if (wanted.verdict !== "all") state.set("verdict", wanted.verdict);
    if (wanted.query) state.set("query", wanted.query);
    history.replaceState(null, "", `#${state}`);
    refresh();
    if ($("photos").getBoundingClientRect().top < 0) $("photos").scrollIntoView();
  }

  function refresh() {
    for (const button of filters) {
      const pressed = button.dataset.filter === wanted.verdict;
      button.setAttribute("aria-pressed", pressed);
      if (pressed) button.parentElement.scrollLeft = button.offsetLeft - button.parentElement.offsetLeft - 48;
    }
    nearby.disconnect();
    cards.replaceChildren();
    $("unreadable").querySelector("ul").replaceChildren();
    shown = [];
    append(records);
  }

  function readAddress() {
    if (location.hash && !location.hash.includes("=")) return; // an anchor, not a filter
    const state = new URLSearchParams(location.hash.slice(1));
    const verdict = state.get("verdict");
    wanted = {verdict: verdict in NAMES || verdict === "unreadable" ? verdict : "all", query: state.get("query") ?? ""};
    query.value = wanted.query;
    refresh();
  }

  for (const button of filters) button.addEventListener("click", () => choose({verdict: button.dataset.filter}));
  query.addEventListener("input", () => choose({query: query.value}));
  addEventListener("hashchange", readAddress);
  $("previous").addEventListener("click", () => show(position - 1));
  $("next").addEventListener("click", () => show(position + 1));
  $("close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("close", follow);
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); }); // the backdrop
  addEventListener("keydown", (event) => { // on the window: a button that was just disabled hears no key
    const step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (!step || !viewer.open) return;
    event.preventDefault(); // the slider keeps the up and down keys
    show(position + step);
  });
  wipe.addEventListener("input", () => wipe.parentElement.style.setProperty("--wipe", `${wipe.value}%`));

  readAddress();
  const arriving = setInterval(collect, 250);
  document.addEventListener("DOMContentLoaded", () => { clearInterval(arriving); collect(); });
})();
