// Reads a photo as Python does: upright, over white, reduced by a power of two as far as the network allows.

import {readCoefficients} from "./jpeg.js";
import {renderJpeg} from "./jpeg-pixels.js";
import {writePng} from "./png.js";

const LEAST_SIDE = 16;
const BAND = 512; // rows decoded into one canvas: phones limit a canvas' pixels

// Of an upright axis: whether the stored one begins at its end. EXIF orientation -> [x, y].
const FROM_END = [null, null, [1, 0], [1, 1], [0, 1], [0, 0], [1, 0], [1, 1], [0, 1]];

// Colours that a profile is for (ICC.1:2022, section 7.2) -> channels; and the name of those that are sRGB's already.
const SPACES = {"RGB ": 3, GRAY: 1};
const SRGB_NAME = /sRGB|s\0R\0G\0B/i;
const MAX_PROFILE_BYTES = 4 * 2 ** 20;

/**
 * The pixels of a file: {width, height, rgb}, rgb a Uint8Array of height * width * 3.
 *
 * With `longestSide` there is a `view` besides, to be looked at: of that size, or smaller if the photo is. Of a JPEG it
 * alone is the browser's: browsers differ in how they decode one, and cannot reduce it meanwhile, as Python does.
 */
export async function readPhoto(file, size, {longestSide = 0} = {}) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, {imageOrientation: "from-image"});
  } catch {
    throw new Error("This browser cannot read it as a photo.");
  }
  const {width, height} = bitmap;
  const side = Math.min(width, height);
  if (side < LEAST_SIDE) throw new Error(`It is ${width} x ${height} px; at least ${LEAST_SIDE} px a side are needed.`);
  const view = longestSide ? viewOf(bitmap, longestSide) : null;
  const bytes = new Uint8Array(await file.slice(0, 2).arrayBuffer());
  const isJpeg = bytes[0] === 0xff && bytes[1] === 0xd8;
  const photo = isJpeg ? await readJpeg(await file.arrayBuffer(), size) : reduceBitmap(bitmap, powerOfTwo(side / size));
  bitmap.close();
  return view ? {...photo, view} : photo;
}

/** Reduces up to eight times while decoding, and then once more if it is still large enough. */
async function readJpeg(buffer, size) {
  const file = readCoefficients(new Uint8Array(buffer));
  const decoded = renderJpeg(file, powerOfTwo(Math.min(8, file.width / size, file.height / size)));
  const photo = await toSrgb(decoded, file.profile);
  const factor = powerOfTwo(Math.min(photo.width, photo.height) / size);
  return turn(factor > 1 ? reducePixels(photo, factor) : photo, orientation(new DataView(buffer)));
}

/** The browser knows what the colours of a profile are in sRGB, but for files only. */
async function toSrgb(decoded, profile) {
  const {width, height, channels, pixels} = decoded;
  const isUsed = profile && profile.length >= 128 && profile.length <= MAX_PROFILE_BYTES;
  const text = isUsed ? new TextDecoder("latin1").decode(profile) : "";
  if (SPACES[text.slice(16, 20)] === channels && !SRGB_NAME.test(text)) {
    const bitmap = await createImageBitmap(await writePng(decoded, profile));
    const photo = viewOf(bitmap, Infinity);
    bitmap.close();
    return photo;
  }
  if (channels === 3) return {width, height, rgb: pixels};
  const rgb = new Uint8Array(3 * pixels.length);
  pixels.forEach((grey, at) => rgb.fill(grey, 3 * at, 3 * at + 3));
  return {width, height, rgb};
}

/** A photo put upright, by its EXIF orientation. */
function turn({width, height, rgb}, orientation) {
  if (!FROM_END[orientation]) return {width, height, rgb};
  const isSideways = orientation > 4;
  const [xFromEnd, yFromEnd] = FROM_END[orientation];
  const [columns, rows] = isSideways ? [height, width] : [width, height];
  const turned = new Uint8Array(rgb.length);
  for (let row = 0, to = 0; row < rows; row++) {
    const y = yFromEnd ? rows - 1 - row : row;
    for (let column = 0; column < columns; column++) {
      const x = xFromEnd ? columns - 1 - column : column;
      const from = 3 * (isSideways ? x * width + y : y * width + x);
      for (let channel = 0; channel < 3; channel++) turned[to++] = rgb[from + channel];
    }
  }
  return {width: columns, height: rows, rgb: turned};
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

/** The largest power of two up to a ratio, at least 1. */
function powerOfTwo(ratio) {
  let factor = 1;
  while (2 * factor <= ratio) factor *= 2;
  return factor;
}

/** Where blocks of `factor` begin, and the length last, where a shorter block may stand. */
function edges(length, factor) {
  const found = [];
  for (let at = 0; at < length; at += factor) found.push(at);
  return [...found, length];
}

function reduceBitmap(bitmap, factor) {
  const columns = edges(bitmap.width, factor);
  const rows = edges(bitmap.height, factor);
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

function reducePixels(photo, factor) {
  const columns = edges(photo.width, factor);
  const rows = edges(photo.height, factor);
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
function orientation(view) {
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
