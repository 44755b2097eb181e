
"use strict";
// One map: where its points are on the screen, how they are drawn, and which of them is meant.
class MapPanel {
  static NEAR = 14; // pixels within which a point is meant
  static MARGIN = 18; // pixels that stay free round all points
  static LARGEST = 9; // pixels of radius

  // `scene` is what all maps share: n, order, classes, classOf, isHidden(i), selected, numSelected, hovered.
  constructor(figure, places, scene) {
    const {n} = scene;
    Object.assign(this, {figure, scene, width: 0, height: 0, ratio: 1, zoom: 1, cx: 0, cy: 0, lasso: null, isStale: true});
    this.points = figure.querySelector(".points");
    this.over = figure.querySelector(".over");
    for (const name of ["x", "y", "screenX", "screenY"]) this[name] = new Float32Array(n);
    this.right = this.down = 1e-6; // how far points reach from the middle
    for (let i = 0; i < n; i++) {
      this.x[i] = places[2 * i] / 65535 - 0.5;
      this.y[i] = places[2 * i + 1] / 65535 - 0.5;
      this.right = Math.max(this.right, Math.abs(this.x[i]));
      this.down = Math.max(this.down, Math.abs(this.y[i]));
    }
  }

  resize() {
    const {width, height} = this.points.parentElement.getBoundingClientRect();
    Object.assign(this, {width, height, ratio: Math.min(devicePixelRatio || 1, 3), isStale: true});
    for (const canvas of [this.points, this.over]) {
      canvas.width = Math.round(width * this.ratio);
      canvas.height = Math.round(height * this.ratio);
    }
    // The picture has a border that is never shown, so that no point at the edge needs to be cut.
    this.border = 2 * Math.ceil(MapPanel.LARGEST * this.ratio + 2);
    if (!width) return;
    this.picture = new ImageData(this.points.width + 2 * this.border, this.points.height + 2 * this.border);
    this.pixels = new Uint32Array(this.picture.data.buffer);
  }

  get scale() { // pixels for each unit of x and y
    const fit = Math.min((this.width / 2 - MapPanel.MARGIN) / this.right, (this.height / 2 - MapPanel.MARGIN) / this.down);
    return this.zoom * Math.max(1, fit);
  }

  // ---- drawing

  static color(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }

  static pixel(name) {
    const context = Object.assign(document.createElement("canvas"), {width: 1, height: 1}).getContext("2d", {willReadFrequently: true});
    context.fillStyle = MapPanel.color(name);
    context.fillRect(0, 0, 1, 1);
    return new Uint32Array(context.getImageData(0, 0, 1, 1).data.buffer)[0];
  }

  // What a point of each class adds to the pixels round it. Twenty thousand points are added up in a few milliseconds
  // by our own hands, without a graphics card too, where as many calls of the canvas take ten times as long.
  stamps(radius, alpha) {
    const rim = MapPanel.color("--surface"), r = radius * this.ratio, side = 2 * Math.ceil(r + 1) + 1, middle = side / 2;
    const canvas = Object.assign(document.createElement("canvas"), {width: side, height: side});
    const context = canvas.getContext("2d", {willReadFrequently: true});
    return this.scene.classes.map(({color, isSquare}) => {
      context.clearRect(0, 0, side, side);
      context.beginPath();
      if (isSquare) context.rect(middle - 0.85 * r, middle - 0.85 * r, 1.7 * r, 1.7 * r);
      else context.arc(middle, middle, r, 0, 2 * Math.PI);
      Object.assign(context, {fillStyle: color, globalAlpha: 1});
      context.fill();
      Object.assign(context, {lineWidth: Math.max(0.6, 0.16 * r), strokeStyle: rim, globalAlpha: 0.75});
      context.stroke();
      const bytes = context.getImageData(0, 0, side, side).data, parts = [];
      for (let k = 0; k < side * side; k++) {
        const share = Math.round(bytes[4 * k + 3] * alpha * 256 / 255); // in 256ths
        if (!share) continue;
        const place = (Math.floor(k / side) - (side >> 1)) * this.picture.width + k % side - (side >> 1);
        parts.push([place, 256 - share, (bytes[4 * k] + bytes[4 * k + 2] * 65536) * share, bytes[4 * k + 1] * 256 * share]);
      }
      return {
        length: parts.length, place: Int32Array.from(parts, (part) => part[0]), rest: Uint16Array.from(parts, (part) => part[1]),
        redBlue: Uint32Array.from(parts, (part) => part[2]), green: Uint32Array.from(parts, (part) => part[3]),
      };
    });
  }

  draw() {
    if (!this.width) return;
    if (this.isStale) this.drawPoints();
    this.drawOver();
  }

  drawPoints() {
    const {n, order, classes, classOf, selected, numSelected, hidden} = this.scene;
    const {x, y, screenX, screenY, width, height, scale} = this;
    const left = width / 2 - this.cx * scale, top = height / 2 - this.cy * scale;
    for (let i = 0; i < n; i++) {
      screenX[i] = left + x[i] * scale;
      screenY[i] = top + y[i] * scale;
    }
    const crowd = Math.min(6, Math.max(2.1, 26 / n ** 0.25)) * Math.min(1, Math.min(width, height) / 480) ** 0.4;
    const radius = Math.min(crowd * this.zoom ** 0.3, MapPanel.LARGEST);
    const isGone = classes.map(({name}) => hidden.has(name));
    const add = (wanted, alpha) => { // those selected, or not, or all
      const stamps = this.stamps(radius, alpha);
      for (let k = 0; k < n; k++) {
        const i = order[k];
        if (!isGone[classOf[i]] && (wanted < 0 || selected[i] === wanted)) this.addPoint(stamps[classOf[i]], screenX[i], screenY[i]);
      }
    };
    this.pixels.fill(MapPanel.pixel("--surface"));
    if (numSelected) {
      add(0, 0.16);
      add(1, 1);
    } else add(-1, 0.9);
    this.points.getContext("2d", {alpha: false}).putImageData(this.picture, -this.border, -this.border);
    this.isStale = false;
  }

  // Red and blue are added together, green apart, each in 256ths: what the stamp adds, and what it leaves of the pixel.
  addPoint(stamp, sx, sy) {
    const {pixels, border, ratio, picture} = this, reach = MapPanel.LARGEST + 1;
    if (sx < -reach || sy < -reach || sx > this.width + reach || sy > this.height + reach) return;
    const middle = (Math.round(sy * ratio) + border) * picture.width + Math.round(sx * ratio) + border;
    for (let k = 0; k < stamp.length; k++) {
      const place = middle + stamp.place[k], pixel = pixels[place], rest = stamp.rest[k];
      const redBlue = (stamp.redBlue[k] + (pixel & 0xff00ff) * rest) >>> 8 & 0xff00ff;
      const green = (stamp.green[k] + (pixel & 0x00ff00) * rest) >>> 8 & 0x00ff00;
      pixels[place] = 0xff000000 | redBlue | green;
    }
  }

  drawOver() {
    const context = this.over.getContext("2d"), {lasso, scene: {hovered}} = this;
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    context.clearRect(0, 0, this.width, this.height);
    if (lasso) {
      context.beginPath();
      for (let k = 0; k < lasso.length; k += 2) context.lineTo(lasso[k], lasso[k + 1]);
      context.closePath();
      context.fillStyle = context.strokeStyle = MapPanel.color("--link");
      Object.assign(context, {globalAlpha: 0.12, lineWidth: 1.5});
      context.fill();
      context.globalAlpha = 1;
      context.stroke();
    }
    if (hovered < 0 || this.scene.isHidden(hovered)) return;
    for (const [lineWidth, name] of [[5, "--surface"], [2.5, "--ink"]]) {
      context.beginPath();
      context.arc(this.screenX[hovered], this.screenY[hovered], 10, 0, 2 * Math.PI);
      Object.assign(context, {lineWidth, strokeStyle: MapPanel.color(name)});
      context.stroke();
    }
  }

  // ---- moving

  zoomAt(factor, px = this.width / 2, py = this.height / 2) {
    const before = this.scale, dx = px - this.width / 2, dy = py - this.height / 2;
    this.zoom = Math.min(200, Math.max(0.5, this.zoom * factor));
    this.cx += dx / before - dx / this.scale;
    this.cy += dy / before - dy / this.scale;
    this.isStale = true;
  }

  move(dx, dy) {
    this.cx = Math.min(0.7, Math.max(-0.7, this.cx - dx / this.scale));
    this.cy = Math.min(0.7, Math.max(-0.7, this.cy - dy / this.scale));
    this.isStale = true;
  }

  moveTo(cx, cy, zoom) {
    Object.assign(this, {cx, cy, zoom, isStale: true});
  }

  // Brings a point that a key led to off the edge.
  reveal(i) {
    const out = (value, limit) => (value < 20 ? 40 - value : value > limit - 20 ? limit - 40 - value : 0);
    this.move(out(this.screenX[i], this.width), out(this.screenY[i], this.height));
    this.drawPoints();
  }

  // ---- which photo

  nearest(px, py, reach = MapPanel.NEAR) {
    let best = -1, least = reach * reach;
    for (let i = 0; i < this.scene.n; i++) {
      const dx = this.screenX[i] - px, dy = this.screenY[i] - py, far = dx * dx + dy * dy;
      if (far < least && !this.scene.isHidden(i)) [best, least] = [i, far];
    }
    return best;
  }

  // The nearest photo in a direction, those straight ahead first; from nowhere, the one in the middle.
  step(from, dx, dy) {
    const {screenX, screenY} = this;
    if (from < 0) return this.nearest(this.width / 2, this.height / 2, Infinity);
    let best = from, least = Infinity;
    for (let i = 0; i < this.scene.n; i++) {
      const ahead = (screenX[i] - screenX[from]) * dx + (screenY[i] - screenY[from]) * dy;
      const aside = Math.abs((screenX[i] - screenX[from]) * dy) + Math.abs((screenY[i] - screenY[from]) * dx);
      if (ahead > 0.5 && ahead + 2 * aside < least && !this.scene.isHidden(i)) [best, least] = [i, ahead + 2 * aside];
    }
    return best;
  }

  // The photos inside the line drawn, by how often a ray from each crosses it.
  inside(lasso) {
    const found = [];
    for (let i = 0; i < this.scene.n; i++) {
      const px = this.screenX[i], py = this.screenY[i];
      let isIn = false;
      for (let a = 0, b = lasso.length - 2; a < lasso.length; b = a, a += 2) {
        if (lasso[a + 1] > py !== lasso[b + 1] > py
          && px < (lasso[b] - lasso[a]) * (py - lasso[a + 1]) / (lasso[b + 1] - lasso[a + 1]) + lasso[a]) isIn = !isIn;
      }
      if (isIn && !this.scene.isHidden(i)) found.push(i);
    }
    return found;
  }
}
