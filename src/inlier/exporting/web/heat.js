// The photo under its anomaly map, and a p-value in words: as decision/heatmap.py and decision/report.py have them.

/** RGBA of the photo in muted colours, with heat where the map rises above the scale's low end. */
export function heatOverlay({width, height, rgb}, map, {ramp, opacity, saturation, scale: [low, high]}) {
  const rgba = new Uint8ClampedArray(width * height * 4);
  const columns = stretch(width, map.width);
  const rows = stretch(height, map.height);
  for (let y = 0, at = 0; y < height; y++) {
    const [top, bottom, down] = rows[y];
    for (let x = 0; x < width; x++, at++) {
      const [left, right, along] = columns[x];
      const above = mix(map.data[top * map.width + left], map.data[top * map.width + right], along);
      const below = mix(map.data[bottom * map.width + left], map.data[bottom * map.width + right], along);
      const heat = Math.min(1, Math.max(0, (mix(above, below, down) - low) / (high - low)));
      const level = Math.round(255 * heat) / 255;
      const place = level * (ramp.length - 1);
      const first = ramp[Math.floor(place)];
      const second = ramp[Math.min(ramp.length - 1, Math.floor(place) + 1)];
      const grey = 0.299 * rgb[3 * at] + 0.587 * rgb[3 * at + 1] + 0.114 * rgb[3 * at + 2];
      for (let channel = 0; channel < 3; channel++) {
        const muted = grey + saturation * (rgb[3 * at + channel] - grey);
        const colour = mix(first[channel], second[channel], place % 1);
        rgba[4 * at + channel] = muted + opacity * level * (colour - muted);
      }
      rgba[4 * at + 3] = 255;
    }
  }
  return rgba;
}

const mix = (first, second, share) => first + share * (second - first);

/** For each pixel along a side the two cells between which it lies, and how far: edges on edges. */
function stretch(numPixels, numCells) {
  return Array.from({length: numPixels}, (_, pixel) => {
    const place = Math.min(numCells - 1, Math.max(0, ((pixel + 0.5) * numCells) / numPixels - 0.5));
    return [Math.floor(place), Math.min(numCells - 1, Math.floor(place) + 1), place % 1];
  });
}

/** How rare a photo this unusual is among normal ones. */
export function explain(pValue, numCalibration) {
  if (!numCalibration) return "There are no normal photos to compare it with.";
  const reached = Math.round(pValue * (numCalibration + 1));
  const share = reached / (numCalibration + 1); // what the number of 32 bits rounded off
  if (reached < 2) return `None of ${numCalibration} normal photos looks this unusual.`;
  if (share <= 0.35) return `About 1 in ${halfToEven(1 / share)} normal photos looks this unusual.`;
  if (share < 0.95) return `About ${halfToEven(10 * share)} in 10 normal photos look at least this unusual.`;
  return "Almost every normal photo looks at least this unusual.";
}

function halfToEven(value) {
  const whole = Math.floor(value);
  return value - whole === 0.5 ? whole + (whole % 2) : Math.round(value);
}
