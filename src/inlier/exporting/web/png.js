// Pixels as a PNG that carries a colour profile: what a browser reads from it has the colours of sRGB.

const CHECKS = Uint32Array.from({length: 256}, (_, of) => {
  for (let bit = 0; bit < 8; bit++) of = of & 1 ? (of >>> 1) ^ 0xedb88320 : of >>> 1;
  return of;
});

/** A PNG (W3C PNG, third edition) of grey (1) or RGB (3) pixels, with the profile. */
export async function writePng({width, height, channels, pixels}, profile) {
  const stride = channels * width;
  const lines = new Uint8Array((stride + 1) * height); // each begins with 0: not filtered
  for (let row = 0; row < height; row++) {
    lines.set(pixels.subarray(row * stride, (row + 1) * stride), row * (stride + 1) + 1);
  }
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, width);
  header.setUint32(4, height);
  header.setUint8(8, 8);
  header.setUint8(9, channels === 3 ? 2 : 0);
  const named = new TextEncoder().encode("profile\0\0");
  const parts = [
    Uint8Array.of(137, 80, 78, 71, 13, 10, 26, 10),
    chunk("IHDR", new Uint8Array(header.buffer)),
    chunk("iCCP", named, await deflate(profile)),
    chunk("IDAT", await deflate(lines)),
    chunk("IEND"),
  ];
  return new Blob(parts, {type: "image/png"});
}

async function deflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function chunk(name, ...parts) {
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  const bytes = new Uint8Array(length + 12);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, length);
  let at = 4;
  for (const part of [new TextEncoder().encode(name), ...parts]) {
    bytes.set(part, at);
    at += part.length;
  }
  let check = 0xffffffff;
  for (const byte of bytes.subarray(4, at)) check = CHECKS[(check ^ byte) & 255] ^ (check >>> 8);
  view.setUint32(at, ~check);
  return bytes;
}
