// Beside the page, so that it stays at hand: reads a photo, runs the model, colours the map.

import * as ort from "./ort.js";
import {heatOverlay} from "./heat.js";
import {readPhoto} from "./photo.js";

const LONGEST_SIDE = 1024; // of the pictures shown

let session;
let about;

const tasks = {
  async open({model, wasm, facts}) {
    about = facts;
    ort.env.logLevel = "error";
    ort.env.wasm.numThreads = 1; // more would need headers that a plain server does not send
    ort.env.wasm.wasmBinary = wasm;
    session = await ort.InferenceSession.create(new Uint8Array(model), {executionProviders: ["wasm"]});
    return {};
  },

  async judge({file}) {
    const {view, ...photo} = await readPhoto(file, about.size, {longestSide: LONGEST_SIDE});
    const began = performance.now();
    const pixels = new ort.Tensor("uint8", photo.rgb, [photo.height, photo.width, 3]);
    const found = await session.run({photo: pixels});
    const seconds = (performance.now() - began) / 1000;
    const result = {
      score: found.score.data[0],
      pValue: found.p_value.data[0],
      verdict: about.verdicts[Number(found.verdict.data[0])],
      component: found.component ? about.components[Number(found.component.data[0])] : null,
      probability: found.component ? found.component_probability.data[0] : null,
      seconds,
      width: photo.width,
      height: photo.height,
      view: {width: view.width, height: view.height},
      photo: opaque(view),
      overlay: null,
    };
    if (found.map && about.heat) {
      const [height, width] = found.map.dims;
      result.overlay = heatOverlay(view, {data: found.map.data, width, height}, about.heat);
    }
    return result;
  },
};

function opaque({width, height, rgb}) {
  const rgba = new Uint8ClampedArray(width * height * 4);
  for (let at = 0; at < width * height; at++) {
    rgba.set(rgb.subarray(3 * at, 3 * at + 3), 4 * at);
    rgba[4 * at + 3] = 255;
  }
  return rgba;
}

self.onmessage = async ({data: {id, task, ...given}}) => {
  try {
    const result = await tasks[task](given);
    const moved = [result.photo?.buffer, result.overlay?.buffer].filter(Boolean);
    self.postMessage({id, result}, moved);
  } catch (error) {
    self.postMessage({id, error: error.message || String(error)});
  }
};
