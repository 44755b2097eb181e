// Reads a photo as Python does: upright, over white, reduced by a power of two as far as the network allows.

const LEAST_SIDE = 16;
const BAND = 512; // rows decoded into one canvas: phones limit a canvas' pixels

// Of an upright axis: whether the stored one begins at its end. EXIF orientation -> [x, y].
const FROM_END = {2: [true, false], 3: [true, true], 4: [false, true], 6: [true, false], 7: [true, true], 8: [false, true]};

/**
 * The pixels of a file: {width, height, rgb}, rgb a Uint8Array of height * width * 3.
 *
 * With `longestSide` there is a `view` besides, to be looked at: of that size, or smaller if the photo is.
 */
export async function readPhoto(file, size, {longestSide = 0} = {}) {
  const start = new DataView(await file.slice(0, 256 * 1024).arrayBuffer());
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, {imageOrientation: "from-image"});
  } catch {
    throw new Error("This browser cannot read it as a photo.");
  }
  const {width, height} = bitmap;
  const side = Math.min(width, height);
  if (side < LEAST_SIDE) throw new Error(`It is ${width} x ${height} px; at least ${LEAST_SIDE} px a side are needed.`);
  const isJpeg = start.byteLength > 2 && start.getUint16(0) === 0xffd8;
  // A JPEG is reduced up to eight times while it is decoded, and then once more if it is still large enough.
  const factor = powerOfTwo(Math.floor(side / size), isJpeg ? 8 : Infinity);
  const fromEnd = FROM_END[isJpeg ? orientation(start) : 1] ?? [false, false];
  let photo = reduceBitmap(bitmap, factor, fromEnd);
  const view = longestSide ? viewOf(bitmap, longestSide) : null;
  bitmap.close();
  const again = isJpeg ? powerOfTwo(Math.floor(Math.min(photo.width, photo.height) / size), Infinity) : 1;
  if (again > 1) photo = reducePixels(photo, again, fromEnd);
  return view ? {...photo, view} : photo;
}

function viewOf(bitmap, longestSide) {
  const scale = Math.min(1, longestSide / Math.max(bitmap.width, bitmap.height));
  const width = Math.max(1, Math.round(scale * bitmap.width));
  const height = Math.max(1, Math.round(scale * bitmap.height));
  const context = whiteCanvas(width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  const rgb = new Uint8Array(width * height * 3);
  const data = context.getImageData(0, 0, width, height).data;
  for (let from = 0, to = 0; from < data.length; from += 4) {
    rgb[to++] = data[from];
    rgb[to++] = data[from + 1];
    rgb[to++] = data[from + 2];
  }
  return {width, height, rgb};
}

function whiteCanvas(width, height) {
  const context = new OffscreenCanvas(width, height).getContext("2d", {willReadFrequently: true});
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  return context;
}

function powerOfTwo(ratio, most) {
  let factor = 1;
  while (2 * factor <= Math.min(ratio, most)) factor *= 2;
  return factor;
}

/** Where blocks of `factor` begin, and the length last; a shorter block stands at the end, or at the beginning. */
export function edges(length, factor, fromEnd) {
  const found = [0];
  for (let at = (fromEnd && length % factor) || factor; at < length; at += factor) found.push(at);
  return [...found, length];
}

function reduceBitmap(bitmap, factor, [xFromEnd, yFromEnd]) {
  const columns = edges(bitmap.width, factor, xFromEnd);
  const rows = edges(bitmap.height, factor, yFromEnd);
  const width = columns.length - 1;
  const height = rows.length - 1;
  const rgb = new Uint8Array(width * height * 3);
  const together = Math.max(1, Math.floor(BAND / factor));
  for (let first = 0; first < height; first += together) {
    const last = Math.min(height, first + together);
    const top = rows[first];
    const context = whiteCanvas(bitmap.width, rows[last] - top);
    context.drawImage(bitmap, 0, -top);
    const data = context.getImageData(0, 0, bitmap.width, rows[last] - top).data;
    const own = rows.slice(first, last + 1).map((row) => row - top);
    average(data, 4, bitmap.width, columns, own, rgb.subarray(first * width * 3, last * width * 3));
  }
  return {width, height, rgb};
}

function reducePixels(photo, factor, [xFromEnd, yFromEnd]) {
  const columns = edges(photo.width, factor, xFromEnd);
  const rows = edges(photo.height, factor, yFromEnd);
  const rgb = new Uint8Array((columns.length - 1) * (rows.length - 1) * 3);
  average(photo.rgb, 3, photo.width, columns, rows, rgb);
  return {width: columns.length - 1, height: rows.length - 1, rgb};
}

/** The mean of each block, rounded as Pillow does. */
function average(data, channels, width, columns, rows, rgb) {
  let to = 0;
  for (let y = 0; y + 1 < rows.length; y++) {
    for (let x = 0; x + 1 < columns.length; x++) {
      let red = 0;
      let green = 0;
      let blue = 0;
      for (let row = rows[y]; row < rows[y + 1]; row++) {
        let from = (row * width + columns[x]) * channels;
        for (let column = columns[x]; column < columns[x + 1]; column++, from += channels) {
          red += data[from];
          green += data[from + 1];
          blue += data[from + 2];
        }
      }
      const count = (rows[y + 1] - rows[y]) * (columns[x + 1] - columns[x]);
      const half = count >> 1;
      const share = Math.floor(2 ** 24 / count); // whole, as there
      rgb[to++] = ((red + half) * share) / 2 ** 24;
      rgb[to++] = ((green + half) * share) / 2 ** 24;
      rgb[to++] = ((blue + half) * share) / 2 ** 24;
    }
  }
}

/** The EXIF orientation in the beginning of a JPEG, 1 where there is none (CIPA DC-008, tag 274). */
export function orientation(view) {
  try {
    for (let at = 2; view.getUint8(at) === 0xff; at += 2 + view.getUint16(at + 2)) {
      if (view.getUint8(at + 1) === 0xda) return 1;
      if (view.getUint8(at + 1) !== 0xe1 || view.getUint32(at + 4) !== 0x45786966) continue;
      const tiff = at + 10;
      const isLittle = view.getUint16(tiff) === 0x4949;
      const directory = tiff + view.getUint32(tiff + 4, isLittle);
      for (let entry = 0; entry < view.getUint16(directory, isLittle); entry++) {
        const place = directory + 2 + 12 * entry;
        if (view.getUint16(place, isLittle) === 0x0112) return view.getUint16(place + 8, isLittle);
      }
      return 1;
    }
  } catch {
    // cut short: as if there were none
  }
  return 1;
}
