// Reads a JPEG as far as the coefficients of its blocks (ITU-T T.81): Huffman coded, sequential and progressive.

// Place of a coefficient in a file -> its place in a block, row by row (figure A.6).
const PLACES = placesInBlock();

const NO_CODES = new Uint16Array(65536);

/**
 * What a file holds: {width, height, most: [across, down], components, isJfif, adobe, profile}.
 *
 * Each component has its sampling factors `across` and `down`, `blocksWide`, `blocksHigh`, `coefficients` (64 a block)
 * and `steps`, by which they are to be multiplied. `profile` are the bytes of the colour profile, or null.
 */
export function readCoefficients(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const file = {components: [], isJfif: false, adobe: null, profile: null};
  const tables = {steps: [], dc: [], ac: [], interval: 0, unstuffed: new Uint8Array(bytes.length + 8)};
  const profile = [];
  let at = 2;
  try {
    for (;;) {
      while (view.getUint8(at) !== 0xff) at++;
      while (view.getUint8(at) === 0xff) at++;
      const marker = bytes[at++];
      if (marker === 0xd9) break;
      if (marker <= 0x01 || (marker >= 0xd0 && marker <= 0xd8)) continue; // without a length
      const length = view.getUint16(at);
      const segment = new DataView(bytes.buffer, bytes.byteOffset + at + 2, length - 2);
      at += length;
      if (marker === 0xdb) readSteps(segment, tables);
      else if (marker === 0xc4) readCodes(segment, tables);
      else if (marker === 0xdd) tables.interval = segment.getUint16(0);
      else if (marker === 0xda) at = readScan(bytes, at, segment, file, tables);
      else if (marker >= 0xc0 && marker <= 0xcf) readFrame(segment, marker, file);
      else if (marker === 0xe0 && length >= 16 && startsWith(segment, "JFIF\0")) file.isJfif = true;
      else if (marker === 0xe2 && length >= 16 && startsWith(segment, "ICC_PROFILE\0")) profile.push(segment);
      else if (marker === 0xee && length >= 14 && startsWith(segment, "Adobe")) file.adobe = segment.getUint8(11);
    }
  } catch (error) {
    if (error instanceof RangeError) throw new Error("The file ends before the picture does.");
    throw error;
  }
  if (!file.components.length || file.components.some(({steps}) => !steps)) throw damaged();
  if (profile.length) file.profile = joinProfile(profile);
  return file;
}

function damaged() {
  return new Error("The file is damaged.");
}

function startsWith(segment, text) {
  return segment.byteLength >= text.length && [...text].every((of, at) => segment.getUint8(at) === of.charCodeAt(0));
}

/** Each part has its number after the twelve letters of its name, and the number of parts. */
function joinProfile(parts) {
  parts.sort((one, other) => one.getUint8(12) - other.getUint8(12));
  const bytes = parts.flatMap((part) => [...new Uint8Array(part.buffer, part.byteOffset + 14, part.byteLength - 14)]);
  return new Uint8Array(bytes);
}

function placesInBlock() {
  const places = new Uint8Array(64 + 16).fill(63); // a run may lead beyond the block of a damaged file
  for (let diagonal = 0, at = 0; diagonal < 15; diagonal++) {
    for (let step = Math.max(0, diagonal - 7); step <= Math.min(7, diagonal); step++) {
      const [row, column] = diagonal % 2 ? [step, diagonal - step] : [diagonal - step, step];
      places[at++] = 8 * row + column;
    }
  }
  return places;
}

function readSteps(segment, tables) {
  for (let at = 0; at < segment.byteLength; ) {
    const [isWide, name] = [segment.getUint8(at) >> 4, segment.getUint8(at++) & 15];
    const steps = new Int32Array(64);
    for (let of = 0; of < 64; of++, at += isWide ? 2 : 1) {
      steps[PLACES[of]] = isWide ? segment.getUint16(at) : segment.getUint8(at);
    }
    tables.steps[name] = steps;
  }
}

/** For each sixteen bits that may come: the length of the code that they begin with, times 256, plus its value. */
function readCodes(segment, tables) {
  for (let at = 0; at < segment.byteLength; ) {
    const [kind, name] = [segment.getUint8(at) >> 4, segment.getUint8(at++) & 15];
    const codes = new Uint16Array(65536);
    let value = at + 16;
    for (let length = 1, start = 0; length <= 16; length++) {
      for (let left = segment.getUint8(at++); left > 0; left--, start += 65536 >> length) {
        codes.fill((length << 8) | segment.getUint8(value++), start, start + (65536 >> length));
      }
    }
    at = value;
    tables[kind ? "ac" : "dc"][name] = codes;
  }
}

function readFrame(segment, marker, file) {
  if (marker > 0xc2 || segment.getUint8(0) !== 8 || file.components.length) {
    throw new Error("This page cannot read a JPEG of this kind.");
  }
  file.isProgressive = marker === 0xc2;
  file.height = segment.getUint16(1);
  file.width = segment.getUint16(3);
  for (let number = 0; number < segment.getUint8(5); number++) {
    const [id, sampling, name] = [0, 1, 2].map((of) => segment.getUint8(6 + 3 * number + of));
    const [across, down] = [sampling >> 4, sampling & 15];
    file.components.push({id, across, down, name, steps: null, dc: null, ac: null, last: 0});
  }
  const most = ["across", "down"].map((axis) => Math.max(...file.components.map((of) => of[axis])));
  if (!file.width || !file.height || !file.components.every(({across, down}) => across && down)) throw damaged();
  file.most = most;
  file.units = [Math.ceil(file.width / (8 * most[0])), Math.ceil(file.height / (8 * most[1]))];
  for (const component of file.components) {
    component.blocksWide = file.units[0] * component.across;
    component.blocksHigh = file.units[1] * component.down;
    component.coefficients = new Int16Array(64 * component.blocksWide * component.blocksHigh);
  }
}

/** Reads a scan, whose coded part begins at a place, and returns where it ends. */
function readScan(bytes, at, segment, file, tables) {
  const number = segment.getUint8(0);
  if (!number) throw damaged();
  const components = [];
  for (let of = 0; of < number; of++) {
    const component = file.components.find(({id}) => id === segment.getUint8(1 + 2 * of));
    if (!component) throw damaged();
    const names = segment.getUint8(2 + 2 * of);
    component.dc = tables.dc[names >> 4] ?? NO_CODES;
    component.ac = tables.ac[names & 15] ?? NO_CODES;
    component.steps ??= tables.steps[component.name];
    components.push(component);
  }
  const [first, final, bits] = [1, 2, 3].map((of) => segment.getUint8(2 * number + of));
  const [high, low] = [bits >> 4, bits & 15];
  const {end, starts} = unstuff(bytes, at, tables.unstuffed);
  const scan = {bytes: tables.unstuffed, position: 0, first, final: Math.min(final, 63), low, left: 0};
  let readBlock = readWhole;
  if (file.isProgressive && first === 0) readBlock = high ? refineFirst : readFirst;
  else if (file.isProgressive) readBlock = high ? refineOthers : readOthers;
  readUnits(scan, components, file, readBlock, tables.interval, starts);
  return end;
}

/** Copies the coded part without its marks: where it ends in the file, and where its intervals start in the copy. */
function unstuff(bytes, at, copy) {
  const starts = [0];
  let to = 0;
  for (;;) {
    const found = bytes.indexOf(0xff, at);
    if (found < 0) throw new RangeError();
    copy.set(bytes.subarray(at, found), to);
    to += found - at;
    let after = found + 1;
    while (bytes[after] === 0xff) after++;
    const next = bytes[after];
    at = after + 1;
    if (next === 0) copy[to++] = 0xff;
    else if (next >= 0xd0 && next <= 0xd7) starts.push(to);
    else {
      copy.fill(0, to, to + 8);
      return {end: found, starts: [...starts, to]};
    }
  }
}

function readUnits(scan, components, file, readBlock, interval, starts) {
  const isAlone = components.length === 1;
  let [wide, high] = file.units;
  if (isAlone) {
    const [{across, down}] = components;
    wide = Math.ceil(Math.ceil((file.width * across) / file.most[0]) / 8);
    high = Math.ceil(Math.ceil((file.height * down) / file.most[1]) / 8);
  }
  let next = 0; // interval
  for (let unit = 0; unit < wide * high; unit++) {
    if (unit === 0 || (interval && unit % interval === 0)) {
      if (next + 1 >= starts.length) throw damaged();
      scan.position = 8 * starts[next];
      scan.end = 8 * starts[++next];
      scan.left = 0;
      for (const component of components) component.last = 0;
    }
    const column = unit % wide;
    const row = (unit - column) / wide;
    for (const component of components) {
      const across = isAlone ? 1 : component.across;
      const down = isAlone ? 1 : component.down;
      for (let y = row * down; y < (row + 1) * down; y++) {
        for (let x = column * across; x < (column + 1) * across; x++) {
          readBlock(scan, component, 64 * (y * component.blocksWide + x));
        }
      }
    }
    if (scan.position > scan.end) throw damaged();
  }
}

/** The sixteen bits at a position. */
function peek(bytes, position) {
  const at = position >> 3;
  return (((bytes[at] << 16) | (bytes[at + 1] << 8) | bytes[at + 2]) >> (8 - (position & 7))) & 0xffff;
}

function readBits(scan, number) {
  const bits = peek(scan.bytes, scan.position) >> (16 - number);
  scan.position += number;
  return bits;
}

function readCode(scan, codes) {
  const code = codes[peek(scan.bytes, scan.position)];
  if (code === 0) throw damaged();
  scan.position += code >> 8;
  return code & 255;
}

/** A number of so many bits, whose first one says that it is positive (table F.1). */
function readNumber(scan, size) {
  if (size === 0) return 0;
  const bits = readBits(scan, size);
  return bits >> (size - 1) ? bits : bits - (1 << size) + 1;
}

function readFirst(scan, component, at) {
  component.last += readNumber(scan, readCode(scan, component.dc) & 15);
  component.coefficients[at] = component.last << scan.low;
}

function refineFirst(scan, component, at) {
  component.coefficients[at] |= readBits(scan, 1) << scan.low;
}

function readWhole(scan, component, at) {
  readFirst(scan, component, at);
  const {coefficients, ac} = component;
  for (let place = 1; place < 64; place++) {
    const code = readCode(scan, ac);
    const size = code & 15;
    if (size === 0 && code !== 0xf0) return;
    place += code >> 4;
    if (size) coefficients[at + PLACES[place]] = readNumber(scan, size);
  }
}

function readOthers(scan, {coefficients, ac}, at) {
  if (scan.left > 0) {
    scan.left -= 1;
    return;
  }
  for (let place = scan.first; place <= scan.final; place++) {
    const code = readCode(scan, ac);
    const run = code >> 4;
    const size = code & 15;
    if (size === 0 && run < 15) {
      scan.left = (1 << run) - 1 + readBits(scan, run);
      return;
    }
    place += run;
    if (size) coefficients[at + PLACES[place]] = readNumber(scan, size) << scan.low;
  }
}

function refineOthers(scan, {coefficients, ac}, at) {
  const bit = 1 << scan.low;
  let place = scan.first;
  if (scan.left === 0) {
    for (; place <= scan.final; place++) {
      const code = readCode(scan, ac);
      let run = code >> 4;
      if ((code & 15) === 0 && run < 15) {
        scan.left = (1 << run) + readBits(scan, run);
        break;
      }
      const found = code & 15 ? (readBits(scan, 1) ? bit : -bit) : 0;
      for (; place <= scan.final; place++) {
        if (coefficients[at + PLACES[place]]) refine(scan, coefficients, at + PLACES[place], bit);
        else if (run-- === 0) break;
      }
      if (found) coefficients[at + PLACES[place]] = found;
    }
  }
  if (scan.left === 0) return;
  scan.left -= 1;
  for (; place <= scan.final; place++) {
    if (coefficients[at + PLACES[place]]) refine(scan, coefficients, at + PLACES[place], bit);
  }
}

function refine(scan, coefficients, at, bit) {
  const known = coefficients[at];
  if (readBits(scan, 1) && (known & bit) === 0) coefficients[at] = known + (known > 0 ? bit : -bit);
}
