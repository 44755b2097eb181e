// From the coefficients of a JPEG to pixels, to the last bit as libjpeg-turbo makes them, which Pillow uses: inverse
// transforms "islow" to 8, 4, 2 or 1 pixels a side of a block, smooth enlarging, and colours by whole numbers.

// Of each size, the upper half of what turns eight coefficients into pixels, in 1/8192: the sums of the constants of
// Loeffler, Ligtenberg and Moschytz (ICASSP 1989) that libjpeg adds up. Of the lower half, odd coefficients count
// negatively. Each smaller size averages the pixels of the next larger one, and leaves out what hardly counts.
const HALVES = {
  8: [
    [8192, 11363, 10703, 9633, 8192, 6437, 4433, 2260],
    [8192, 9633, 4433, -2259, -8192, -11362, -10704, -6436],
    [8192, 6437, -4433, -11362, -8192, 2261, 10704, 9633],
    [8192, 2260, -10703, -6436, 8192, 9633, -4433, -11363],
  ],
  4: [
    [16384, 20995, 15137, 7373, 0, -4926, -6270, -4176],
    [16384, 8697, -15137, -17799, 0, 11893, 6270, -1730],
  ],
  2: [[32768, 29692, 0, -10426, 0, 6967, 0, -5906]],
};

/** The pixels at 1, 1/2, 1/4 or 1/8 of the size: {width, height, channels, pixels}, channels 1 (grey) or 3 (RGB). */
export function renderJpeg(file, factor) {
  const size = 8 / factor;
  const width = Math.ceil(file.width / factor);
  const height = Math.ceil(file.height / factor);
  const planes = file.components.map((component) => enlarge(render(component, size, file), width, height, size > 1));
  const paint = {1: paintGrey, 3: isRgb(file) ? paintRgb : paintYcc, 4: paintCmyk}[planes.length];
  if (!paint || (planes.length === 4 && file.profile)) throw new Error("This page cannot read a JPEG of such colours.");
  const channels = planes.length === 1 ? 1 : 3;
  const pixels = new Uint8ClampedArray(channels * width * height);
  const rows = planes.map(() => null);
  for (let row = 0; row < height; row++) {
    planes.forEach(({data, stride}, of) => (rows[of] = data.subarray(row * stride, row * stride + width)));
    paint(pixels.subarray(channels * row * width, channels * (row + 1) * width), rows, file);
  }
  return {width, height, channels, pixels: new Uint8Array(pixels.buffer)};
}

/** A component in pixels; one with fewer samples than others is left as large as that allows. */
function render({across, down, blocksWide, blocksHigh, coefficients, steps}, least, {width, height, most}) {
  let size = least;
  const fits = (of) => (most[0] * least) % (across * of) === 0 && (most[1] * least) % (down * of) === 0;
  while (size < 8 && fits(2 * size)) size *= 2;
  const stride = blocksWide * size;
  const data = new Uint8ClampedArray(stride * blocksHigh * size);
  for (let row = 0, at = 0; row < blocksHigh; row++) {
    for (let column = 0; column < blocksWide; column++, at += 64) {
      const to = row * size * stride + column * size;
      if (size === 1) data[to] = ((coefficients[at] * steps[0] + 4) >> 3) + 128;
      else invert(coefficients, at, steps, size, data, to, stride);
    }
  }
  return {
    data,
    stride,
    width: Math.ceil((width * across * size) / (8 * most[0])),
    height: Math.ceil((height * down * size) / (8 * most[1])),
    factors: [(most[0] * least) / (across * size), (most[1] * least) / (down * size)],
  };
}

const columns = new Int32Array(64);

/** The inverse transform of a block: down its columns, two bits finer than levels, then along its rows. */
function invert(coefficients, at, steps, size, data, to, stride) {
  const half = HALVES[size];
  const shift = {8: 11, 4: 12, 2: 13}[size];
  const rest = shift + 7;
  for (let x = 0; x < 8; x++) {
    if (half[0][x] === 0) continue;
    for (let y = 0; y < half.length; y++) {
      const of = half[y];
      let even = 1 << (shift - 1);
      let odd = 0;
      for (let k = 0; k < 8; k += 2) {
        even += of[k] * coefficients[at + 8 * k + x] * steps[8 * k + x];
        odd += of[k + 1] * coefficients[at + 8 * k + 8 + x] * steps[8 * k + 8 + x];
      }
      columns[8 * y + x] = (even + odd) >> shift;
      columns[8 * (size - 1 - y) + x] = (even - odd) >> shift;
    }
  }
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < half.length; x++) {
      const of = half[x];
      let even = (1 << (rest - 1)) + (128 << rest);
      let odd = 0;
      for (let k = 0; k < 8; k += 2) {
        even += of[k] * columns[8 * y + k];
        odd += of[k + 1] * columns[8 * y + k + 1];
      }
      data[to + y * stride + x] = (even + odd) >> rest;
      data[to + y * stride + size - 1 - x] = (even - odd) >> rest;
    }
  }
}

/** A plane as large as the picture: pixels between its own where it has half of them, else its own repeated. */
function enlarge(plane, width, height, isSmooth) {
  const [across, down] = plane.factors;
  if (across === 1 && down === 1) return plane;
  if (across % 1 || down % 1) throw new Error("This page cannot read a JPEG of such colours.");
  const data = new Uint8Array(width * height);
  const isDoubled = across <= 2 && down <= 2 && (across === 1 || plane.width > 2);
  const fill = isSmooth && isDoubled ? between : repeat;
  for (let row = 0; row < height; row++) fill(plane, row, data.subarray(row * width, (row + 1) * width));
  return {data, stride: width};
}

function repeat({data, stride, factors: [across, down]}, row, to) {
  const from = Math.floor(row / down) * stride;
  for (let column = 0; column < to.length; column++) to[column] = data[from + Math.floor(column / across)];
}

/** Three quarters of the nearer sample and one of the farther, on either axis, rounded up and down in turns. */
function between({data, stride, width, height, factors: [across, down]}, row, to) {
  const nearer = down === 1 ? row : row >> 1;
  const farther = down === 1 ? row : Math.min(height - 1, Math.max(0, nearer + (row & 1 ? 1 : -1)));
  const sum = (column) =>
    down === 1 ? data[nearer * stride + column] : 3 * data[nearer * stride + column] + data[farther * stride + column];
  for (let column = 0; column < to.length; column++) {
    if (across === 1) {
      to[column] = (sum(column) + (row & 1 ? 2 : 1)) >> 2;
      continue;
    }
    const near = column >> 1;
    const far = Math.min(width - 1, Math.max(0, near + (column & 1 ? 1 : -1)));
    const both = 3 * sum(near) + sum(far);
    to[column] = down === 1 ? (both + (column & 1 ? 2 : 1)) >> 2 : (both + (column & 1 ? 7 : 8)) >> 4;
  }
}

/** Whether the three components are red, green and blue: what the file says, else what their names suggest. */
function isRgb({isJfif, adobe, components}) {
  if (isJfif) return false;
  if (adobe !== null) return adobe === 0;
  return String.fromCharCode(...components.map(({id}) => id)) === "RGB";
}

function paintGrey(pixels, [grey]) {
  pixels.set(grey);
}

function paintRgb(pixels, planes) {
  for (let at = 0; at < pixels.length; at++) pixels[at] = planes[at % 3][Math.floor(at / 3)];
}

function paintYcc(pixels, [luma, blues, reds]) {
  for (let from = 0, to = 0; from < luma.length; from++) {
    const y = luma[from];
    const blue = blues[from] - 128;
    const red = reds[from] - 128;
    pixels[to++] = y + ((91881 * red + 32768) >> 16);
    pixels[to++] = y + ((-22554 * blue - 46802 * red + 32768) >> 16);
    pixels[to++] = y + ((116130 * blue + 32768) >> 16);
  }
}

/** Inks, which files hold inverted; Pillow prints them one over the other. */
function paintCmyk(pixels, planes, {adobe}) {
  const black = planes[3];
  if (adobe === null || adobe === 0) paintRgb(pixels, planes);
  else {
    paintYcc(pixels, planes);
    for (let at = 0; at < pixels.length; at++) pixels[at] = 255 - pixels[at];
  }
  for (let at = 0; at < pixels.length; at++) {
    const light = black[Math.floor(at / 3)];
    const product = (255 - pixels[at]) * light + 128;
    pixels[at] = light - (((product >> 8) + product) >> 8);
  }
}
