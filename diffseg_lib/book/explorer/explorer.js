/* The attention explorer. `Maths` is the arithmetic of the method, as diffseg_lib.scoremaps has it; the rest draws. */
"use strict";

const Maths = {
  EPSILON: 2 ** -23, // of float32

  bounds(map) {
    let low = Infinity, high = -Infinity;
    for (const v of map) { if (v < low) low = v; if (v > high) high = v; }
    return [low, high];
  },

  // Min-max to [0, 1]; a constant map becomes zeros.
  normalise(map) {
    const [low, high] = Maths.bounds(map);
    if (high - low <= 8 * Maths.EPSILON * Math.max(Math.abs(low), Math.abs(high))) return new Float32Array(map.length);
    return Float32Array.from(map, v => (v - low) / (high - low));
  },

  // Bilinear, pixel centres aligned (align_corners=False).
  resize(map, h, w, H, W) {
    if (h === H && w === W) return map;
    const places = (n, N) => Array.from({ length: N }, (_, i) => {
      const at = Math.max(0, (i + 0.5) * n / N - 0.5), low = Math.min(n - 1, Math.floor(at));
      return [low, Math.min(n - 1, low + 1), at - low];
    });
    const rows = places(h, H), columns = places(w, W), out = new Float32Array(H * W);
    rows.forEach(([a, b, p], y) => columns.forEach(([c, d, q], x) => {
      out[y * W + x] = (1 - p) * ((1 - q) * map[a * w + c] + q * map[a * w + d]) + p * ((1 - q) * map[b * w + c] + q * map[b * w + d]);
    }));
    return out;
  },

  // Mean over cells of cell x cell pixels; the last cells are smaller where the sides are not divisible.
  pool(map, h, w, cell) {
    if (cell === 1) return map;
    const W = Math.ceil(w / cell), out = new Float32Array(Math.ceil(h / cell) * W), count = new Float32Array(out.length);
    for (let y = 0; y < h; y++) for (let x = 0; x < w; x++) {
      const at = Math.floor(y / cell) * W + Math.floor(x / cell);
      out[at] += map[y * w + x];
      count[at]++;
    }
    return out.map((v, i) => v / count[i]);
  },

  // One row of softmax(X Y^T).
  attend(x, y, rank, row, out) {
    const n = y.length / rank;
    let high = -Infinity, sum = 0;
    for (let j = 0; j < n; j++) {
      let dot = 0;
      for (let r = 0; r < rank; r++) dot += x[row * rank + r] * y[j * rank + r];
      out[j] = dot;
      if (dot > high) high = dot;
    }
    for (let j = 0; j < n; j++) sum += out[j] = Math.exp(out[j] - high);
    for (let j = 0; j < n; j++) out[j] /= sum;
    return out;
  },

  // Eq. (5): the weighted sum of the maps of all resolutions, each brought to one size and scaled.
  fuse(maps, weights, h, w, scale) {
    const total = new Float32Array(h * w);
    maps.forEach(({ map, size }, i) => {
      if (!weights[i]) return;
      const large = Maths.resize(map, size[0], size[1], h, w), term = scale === "minmax" ? Maths.normalise(large) : large;
      for (let j = 0; j < total.length; j++) total[j] += weights[i] * term[j];
    });
    return total;
  },

  // Eq. (6), (7): A v, so many times.
  complete(vector, matrix, rounds) {
    const n = vector.length;
    for (let round = 0; round < rounds; round++) {
      const out = new Float32Array(n);
      for (let i = 0; i < n; i++) {
        let sum = 0;
        for (let j = 0; j < n; j++) sum += matrix[i * n + j] * vector[j];
        out[i] = sum;
      }
      vector = out;
    }
    return vector;
  },

  upsample(map, h, w, H, W, finalNorm) {
    return finalNorm === "after" ? Maths.normalise(Maths.resize(map, h, w, H, W)) : Maths.resize(Maths.normalise(map), h, w, H, W);
  },

  // 0 where no class scores above the threshold, else i for the i-th class (from 1).
  label(scores, threshold) {
    return Uint8Array.from(scores[0], (_, at) => {
      let best = 0;
      for (let c = 1; c < scores.length; c++) if (scores[c][at] > scores[best][at]) best = c;
      return scores[best][at] > threshold ? best + 1 : 0;
    });
  },

  mean(maps) {
    if (maps.length === 1) return maps[0];
    return maps[0].map((_, i) => maps.reduce((sum, map) => sum + map[i], 0) / maps.length);
  },
};

class Scene {
  constructor(base64) {
    const bytes = Uint8Array.from(atob(base64), c => c.charCodeAt(0)), start = 4 + new DataView(bytes.buffer).getUint32(0, true);
    Object.assign(this, JSON.parse(new TextDecoder().decode(bytes.subarray(4, start))));
    this.buffer = bytes.buffer;
    this.start = start;
    this.kept = new Map();
    // Where the library takes the mean over timesteps, the slider has one stop more for it.
    this.stops = this.timesteps.map((t, i) => ({ name: `${t}`, indices: [i] }));
    const own = this.defaults.map(t => this.timesteps.indexOf(t));
    if (own.length > 1) this.stops.push({ name: `mean of ${this.defaults.join(", ")}`, indices: own });
    this.ownStop = own.length > 1 ? this.stops.length - 1 : own[0];
  }

  shape(name) { return this.arrays[name][2]; }

  raw(name) {
    const [kind, offset, shape] = this.arrays[name], count = shape.reduce((a, b) => a * b, 1);
    const type = { uint8: Uint8Array, int8: Int8Array, uint16: Uint16Array, float32: Float32Array }[kind];
    return new type(this.buffer, this.start + offset, count);
  }

  remember(key, make, most = 24) {
    if (!this.kept.has(key)) {
      if (this.kept.size >= most) this.kept.delete(this.kept.keys().next().value);
      this.kept.set(key, make());
    }
    return this.kept.get(key);
  }

  // One map of an array ... h w, in its units.
  map(name, index) {
    const shape = this.shape(name), size = shape.slice(-2), n = size[0] * size[1], values = this.raw(name), range = this.raw(`${name}.range`);
    const low = range[2 * index], high = range[2 * index + 1], top = values instanceof Uint8Array ? 255 : 65535;
    return { size, map: Float32Array.from(values.subarray(index * n, (index + 1) * n), v => low + v / top * (high - low)) };
  }

  over(stop, one) {
    const found = this.stops[stop].indices.map(one);
    return { size: found[0].size, map: Maths.mean(found.map(f => f.map)) };
  }

  stride(stop, stride, word) { return this.over(stop, i => this.map(`mean/${i}/${stride}`, word)); }

  heads(layer) { return this.shape(`heads/0/${layer}`)[1]; }

  head(stop, layer, word, head) { return this.over(stop, i => this.map(`heads/${i}/${layer}`, word * this.heads(layer) + head)); }

  layer(stop, layer, word) {
    const all = Array.from({ length: this.heads(layer) }, (_, head) => this.head(stop, layer, word, head));
    return { size: all[0].size, map: Maths.mean(all.map(one => one.map)) };
  }

  grid(j) {
    const { size, cell } = this.resolutions[j];
    return size.map(side => Math.ceil(side / cell));
  }

  factors(i, j, word) {
    const name = `self/${i}/${j}/${this.own[i] ? word : 0}`, rank = this.shape(`${name}/x`)[1];
    const [x, y] = ["x", "y"].map(side => {
      const unit = this.raw(`${name}/${side}.unit`);
      return Float32Array.from(this.raw(`${name}/${side}`), (v, at) => v * unit[at % rank]);
    });
    return { x, y, rank };
  }

  // What one pixel (a cell of the grid) attends to at one resolution.
  row(stop, j, word, cell) {
    const size = this.grid(j);
    return this.over(stop, i => {
      const { x, y, rank } = this.remember(`factors/${i}/${j}/${this.own[i] ? word : 0}`, () => this.factors(i, j, word), 64);
      return { size, map: Maths.attend(x, y, rank, cell, new Float32Array(size[0] * size[1])) };
    });
  }

  matrix(i, word) {
    return this.remember(`matrix/${i}/${this.own[i] ? word : 0}`, () => {
      const { x, y, rank } = this.factors(i, 0, word), n = y.length / rank, all = new Float32Array(n * n);
      for (let row = 0; row < n; row++) Maths.attend(x, y, rank, row, all.subarray(row * n, (row + 1) * n));
      return all;
    });
  }

  // Fused and completed maps of every class, scores and labels.
  compute({ stop, weights, rounds, threshold }) {
    const [h, w] = this.finest, [H, W] = this.size, { cell } = this.resolutions[0], grid = rounds ? this.grid(0) : this.finest;
    const fused = [], completed = [];
    this.classes.forEach((_, word) => {
      const each = this.stops[stop].indices.map(i => {
        const map = Maths.fuse(this.strides.map(stride => this.map(`mean/${i}/${stride}`, word)), weights, h, w, this.scale);
        return [map, rounds ? Maths.complete(Maths.pool(map, h, w, cell), this.matrix(i, word), rounds) : map];
      });
      fused.push(Maths.mean(each.map(one => one[0])));
      completed.push(Maths.mean(each.map(one => one[1])));
    });
    const scores = completed.map(map => Maths.upsample(map, grid[0], grid[1], H, W, this.final_norm));
    return { fused, completed, grid, scores, labels: Maths.label(scores, threshold) };
  }
}

// -- drawing --------------------------------------------------------------------------------------

// Cividis: even in lightness, fit for colour-blind readers.
const STOPS = ["00224e", "123570", "3b496c", "575d6d", "707173", "8a8678", "a59c74", "c3b369", "fee838"].map(hex => [0, 2, 4].map(i => parseInt(hex.slice(i, i + 2), 16)));
const RAMP = Array.from({ length: 256 }, (_, v) => {
  const at = v / 255 * (STOPS.length - 1), low = Math.min(STOPS.length - 2, Math.floor(at));
  return STOPS[low].map((c, i) => Math.round(c + (at - low) * (STOPS[low + 1][i] - c)));
});
const GROUND = [236, 234, 228]; // of the labels' background

// Views, as in index.html#view=fusion: what a reader is told to do, and settings to begin with. Elements name the views that show them in data-in.
const VIEWS = {
  attention: { hint: "<b>Point at the picture:</b> bright squares are what that pixel attends to. <b>Pick a word:</b> its maps show where the word is." },
  layers: { hint: "<b>Pick a word</b> to see its map in every layer, and <b>pick a layer</b> to see its heads." },
  fusion: { hint: "<b>Move the weights:</b> the fused map and the labels follow. The maps are not completed here.", rounds: 0 },
  completion: { hint: "<b>Point at the picture</b> to see what a pixel attends to. <b>Set the rounds:</b> the completed map and the labels follow." },
  timesteps: { hint: "<b>Move the timestep of the noise:</b> maps and labels follow." },
};
const HINT = "<b>Point at the picture:</b> bright squares are what that pixel attends to. <b>Pick a word:</b> its maps show where the word is. <b>Move a slider:</b> the labels follow.";

const Explorer = {
  scenes: [],
  waiting: {},

  start({ titles, files }) {
    const hash = new URLSearchParams(location.hash.slice(1)), asked = hash.get("view"), scene = +hash.get("scene");
    Object.assign(this, { titles, files, current: -1, view: Object.hasOwn(VIEWS, asked) ? asked : "" });
    this.follow();
    this.build();
    if (files.length) this.choose(scene in titles ? scene : 0);
  },

  // The theme: of the page around this one, which tells it by the frame's name and, when it changes, by a message; else of the site, else of the system.
  follow() {
    const set = theme => { if (["light", "dark"].includes(theme)) document.documentElement.dataset.theme = theme; };
    try { if (this.files.length) set(localStorage.getItem("theme")); } catch { /* a frame may have no storage */ }
    if (window === parent) return;
    set(window.name.replace("theme-", ""));
    addEventListener("message", event => { if (event.source === parent) set(event.data?.theme); });
  },

  // A scene that a script brings.
  receive(index, base64) {
    this.scenes[index] = new Scene(base64);
    if (this.current < 0 || this.wanted === index) this.choose(index);
  },

  choose(index) {
    this.wanted = index;
    if (this.scenes[index]) {
      this.current = index;
      this.open(this.scenes[index]);
    } else if (!this.waiting[index]) {
      const script = document.createElement("script");
      this.waiting[index] = script;
      script.src = this.files[index];
      script.onerror = () => {
        delete this.waiting[index];
        this.say(`The file ${this.files[index]} is missing beside this page.`);
      };
      document.head.append(script);
      this.say("Loading …");
    }
  },

  say(text) { document.getElementById("status").textContent = text; },

  // -- the skeleton, once --

  build() {
    const many = this.titles.length > 1;
    document.getElementById("explorer").innerHTML = `
<header>
  <div><h1>Attention explorer</h1>
  <p class="hint" id="hint"></p></div>
  <label class="scenes" ${many ? "" : "hidden"}>Scene <select id="scene">${this.titles.map((t, i) => `<option value="${i}"></option>`).join("")}</select></label>
</header>
<p id="status" role="status"></p>
<div id="body" hidden>
<aside>
  <div class="pair">
    <figure><div class="frame point" id="picture-frame"><canvas id="picture" tabindex="0" role="application" aria-roledescription="picture to explore" aria-describedby="keys"></canvas><i class="mark"></i></div><figcaption>Picture</figcaption></figure>
    <figure><div class="frame point" id="labels-frame"><canvas id="labels" role="img"></canvas><i class="mark"></i></div><figcaption>Labels, <output id="agree"></output></figcaption></figure>
  </div>
  <p id="keys" class="note">Mouse, finger, or arrow keys (Shift: ten pixels).</p>
  <fieldset class="words"><legend><b>Words</b> and their scores at this pixel</legend><div id="words"></div></fieldset>
  <p id="readout" class="visible"></p><p id="live" class="sr" role="status" aria-live="polite"></p>
</aside>
<div class="steps">
  <section aria-labelledby="s1" data-in="attention completion"><h2 id="s1"><span>1</span> What does this pixel attend to?</h2>
    <p class="say">Self-attention: pixels that belong together look at each other. The frame marks the pixel you chose.</p>
    <div class="tiles" id="self"></div><div class="scale" id="self-scale"></div></section>
  <section aria-labelledby="s2" data-in="attention layers fusion timesteps"><h2 id="s2"><span>2</span> Where is the word <em class="word"></em>?</h2>
    <p class="say" data-in="attention fusion timesteps">Cross-attention: how strongly each pixel looks at the word.<span data-in="fusion"> A weight says how much each resolution counts.</span></p>
    <div class="control" data-in="layers timesteps"><label for="stop">Timestep of the noise</label><input id="stop" type="range" min="0" step="1"><output id="stop-value"></output></div>
    <div class="tiles" id="cross" data-in="attention fusion timesteps"></div><div class="scale" id="cross-scale" data-in="attention fusion timesteps"></div>
    <details id="by-layer" data-in="layers"><summary>Layer by layer, head by head</summary>
      <p class="say" id="layers-say"></p><div class="tiles small" id="layers"></div>
      <h3 id="heads-title"></h3><div class="tiles small" id="heads"></div></details></section>
  <section aria-labelledby="s3" data-in="fusion completion timesteps"><h2 id="s3"><span>3</span> From maps to labels</h2>
    <p class="say">The weighted maps are added (<b>fused</b>). <span data-in="completion timesteps">Then every pixel takes the mean of the pixels it attends to (<b>completed</b>), so a map fills the shape of its thing. </span>The largest score wins, unless all stay below the threshold.</p>
    <div class="controls">
      <div class="control" data-in="completion"><label for="rounds">Rounds of completion</label><input id="rounds" type="range" min="0" max="3" step="1"><output id="rounds-value"></output></div>
      <div class="control"><label for="threshold">Background threshold</label><input id="threshold" type="range" min="0" max="1" step="0.01"><output id="threshold-value"></output></div>
    </div>
    <div class="chain"><figure class="tile"><div class="frame tap"><canvas id="fused" role="img"></canvas><i class="mark"></i></div><figcaption><b>Fused</b>, <em class="word"></em><output></output></figcaption></figure><span class="arrow" aria-hidden="true" data-in="completion timesteps">→</span>
      <figure class="tile" data-in="completion timesteps"><div class="frame tap"><canvas id="completed" role="img"></canvas><i class="mark"></i></div><figcaption><b>Completed</b>, <em class="word"></em><output></output></figcaption></figure><span class="arrow" aria-hidden="true">→</span>
      <figure class="tile"><div class="frame tap"><canvas id="result" role="img"></canvas><i class="mark"></i></div><figcaption><b>Labels</b> of all words<output></output></figcaption></figure></div>
    <div class="scale" id="map-scale"></div></section>
  <footer><button id="reset" type="button">Back to the start</button> <button id="whole" type="button"></button><p id="about" class="note"></p></footer>
</div></div>`;
    const at = id => document.getElementById(id);
    this.at = at;
    [...at("scene").options].forEach((option, i) => { option.textContent = this.titles[i]; });
    at("scene").onchange = event => this.choose(+event.target.value);
    at("self-scale").innerHTML = this.scaleOf("0", "¼ of the largest", "largest share");
    at("cross-scale").innerHTML = at("map-scale").innerHTML = this.scaleOf("smallest", "", "largest of each map");
    const set = (id, key, number) => { at(id).oninput = () => { this.state[key] = number(at(id).value); this.later(true); }; };
    set("stop", "stop", Number);
    set("rounds", "rounds", Number);
    set("threshold", "threshold", Number);
    at("reset").onclick = () => this.reset();
    const first = this.view;
    at("whole").hidden = !first;
    at("whole").onclick = () => this.look(this.view ? "" : first);
    this.look(first);
    for (const id of ["picture", "labels"]) {
      at(id).addEventListener("pointermove", event => this.point(event));
      at(id).addEventListener("pointerdown", event => this.point(event));
    }
    at("picture").addEventListener("keydown", event => this.key(event));
    document.querySelector(".steps").addEventListener("click", event => { if (event.target.closest(".tap")) this.point(event, event.target.closest(".tap")); });
  },

  // Show what belongs to a view; "" is everything.
  look(view) {
    this.view = document.body.dataset.view = view;
    document.querySelectorAll("[data-in]").forEach(one => { one.hidden = Boolean(view) && !one.dataset.in.split(" ").includes(view); });
    this.at("hint").innerHTML = view ? VIEWS[view].hint : HINT;
    this.at("whole").textContent = view ? "Show all steps" : "Show this step alone";
    if (view === "layers") this.at("by-layer").open = true;
  },

  scaleOf(low, middle, high) { return `<i style="background:linear-gradient(90deg,${RAMP.filter((_, i) => i % 15 === 0).map(c => `rgb(${c})`)})"></i><span>${low}</span><span>${middle}</span><span>${high}</span>`; },

  // -- a scene --

  open(scene) {
    const { at } = this;
    this.scene = scene;
    at("body").hidden = false;
    at("scene").value = this.current;
    this.say("");
    at("stop").max = scene.stops.length - 1;
    at("stop").disabled = scene.stops.length < 2;
    at("words").replaceChildren(...scene.classes.map((name, i) => this.wordRow(name, i)));
    const tile = (id, text, inner = "") => {
      const figure = document.createElement("figure");
      figure.className = "tile";
      figure.innerHTML = `<div class="frame tap"><canvas role="img"></canvas><i class="mark"></i></div><figcaption><b></b><output></output>${inner}</figcaption>`;
      figure.querySelector("b").textContent = text;
      at(id).append(figure);
      return figure;
    };
    for (const id of ["self", "cross", "layers", "heads"]) at(id).replaceChildren();
    scene.resolutions.forEach((one, j) => {
      const grid = scene.grid(j), name = `${scene.unit === "block" ? "image to image" : `stride ${one.stride}`}, ${grid[1]}\u00a0×\u00a0${grid[0]}`;
      tile("self", name + (one.cell > 1 ? ` (pooled from ${one.size[1]} × ${one.size[0]})` : ""));
    });
    scene.strides.forEach((stride, s) => {
      const [, h, w] = scene.shape(`mean/0/${stride}`), figure = tile("cross", `${scene.unit} ${stride}, ${w}\u00a0×\u00a0${h}`, `<label class="weight" data-in="fusion"><span>weight <b></b></span><input type="range" min="0" max="1" step="0.05"></label>`);
      const slider = figure.querySelector("input");
      slider.setAttribute("aria-label", `Weight of ${scene.unit} ${stride}, ${w} by ${h}`);
      slider.oninput = () => { this.state.weights[s] = +slider.value; this.later(true); };
    });
    const shrunk = scene.layers.some(one => one.shrunk > 1);
    at("layers-say").textContent = `Each layer's map of the word, the mean over its heads, in the order in which they run${shrunk ? "; large maps are kept smaller here" : ""}. Pick one to see its heads.`;
    scene.layers.forEach((one, i) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "tile";
      button.innerHTML = `<span class="frame"><canvas aria-hidden="true"></canvas><i class="mark"></i></span><span class="caption"><b></b><br>${scene.unit} ${one.stride}</span>`;
      button.querySelector("b").textContent = one.name;
      button.onclick = () => { this.state.layer = i; this.later(true); };
      at("layers").append(button);
    });
    const url = URL.createObjectURL(new Blob([scene.raw("picture")])), image = new Image();
    image.onload = () => {
      const canvas = at("picture");
      [canvas.height, canvas.width] = scene.size;
      canvas.getContext("2d").drawImage(image, 0, 0);
      URL.revokeObjectURL(url);
    };
    image.src = url;
    this.say("");
    this.look(this.view);
    this.reset(true);
  },

  wordRow(name, i) {
    const row = document.createElement("label");
    row.className = "wordrow";
    row.innerHTML = `<input type="radio" name="word"><i class="swatch" style="background:rgb(${this.scene.colours[i]})"></i><span class="name"></span><span class="bar" aria-hidden="true"><i style="background:rgb(${this.scene.colours[i]})"></i><u></u></span><output></output>`;
    row.querySelector(".name").textContent = name;
    row.querySelector("input").onchange = () => { this.state.word = i; this.later(true); };
    return row;
  },

  // The library's settings, or what the view begins with.
  own() {
    const { scene } = this, weights = scene.strides.map(stride => scene.weights[stride]), rounds = VIEWS[this.view]?.rounds ?? Math.min(3, scene.iterations);
    return { stop: scene.ownStop, weights, rounds, threshold: scene.threshold };
  },

  reset(fresh) {
    const { scene } = this, [H, W] = scene.size;
    this.state = { word: 0, layer: 0, x: 0, y: 0, ...(fresh ? {} : this.state), ...this.own() };
    if (fresh) { // the pixel that the first word is surest of
      const { scores } = scene.compute(this.state), best = scores[0].indexOf(Maths.bounds(scores[0])[1]);
      Object.assign(this.state, { x: best % W, y: Math.min(H - 1, Math.floor(best / W)), layer: this.clearest() });
    }
    this.draw(true);
  },

  // A layer to begin with: the last one of the resolution that counts most.
  clearest() {
    const { scene } = this, most = scene.strides.reduce((a, b) => (scene.weights[b] > scene.weights[a] ? b : a));
    return Math.max(0, scene.layers.map(one => one.stride).lastIndexOf(most));
  },

  // -- pointing --

  point(event, frame) {
    const box = (frame || event.currentTarget).getBoundingClientRect(), [H, W] = this.scene.size;
    const inside = (at, n) => Math.max(0, Math.min(n - 1, Math.floor(at * n)));
    this.state.x = inside((event.clientX - box.left) / box.width, W);
    this.state.y = inside((event.clientY - box.top) / box.height, H);
    this.later(false);
  },

  key(event) {
    const step = event.shiftKey ? 10 : 1, [H, W] = this.scene.size;
    const [dx, dy] = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key] || [0, 0];
    if (!dx && !dy) return;
    event.preventDefault();
    this.state.x = Math.max(0, Math.min(W - 1, this.state.x + dx));
    this.state.y = Math.max(0, Math.min(H - 1, this.state.y + dy));
    this.later(false);
  },

  later(all) {
    this.all = this.all || all;
    if (!this.frame) this.frame = requestAnimationFrame(() => { const every = this.all; this.frame = 0; this.all = false; this.draw(every); });
  },

  // -- pictures --

  paint(canvas, size, colour) {
    [canvas.height, canvas.width] = size;
    const context = canvas.getContext("2d"), image = context.createImageData(size[1], size[0]);
    for (let i = 0; i < size[0] * size[1]; i++) image.data.set([...colour(i), 255], 4 * i);
    context.putImageData(image, 0, 0);
    canvas.parentElement.style.aspectRatio = `${this.scene.size[1]} / ${this.scene.size[0]}`;
  },

  heat(canvas, { map, size }, root = false) {
    const [low, high] = root ? [0, Maths.bounds(map)[1]] : Maths.bounds(map), span = high - low || 1;
    this.paint(canvas, size, i => { const v = (map[i] - low) / span; return RAMP[Math.max(0, Math.min(255, Math.round(255 * (root ? Math.sqrt(v) : v))))]; });
  },

  cell(size) {
    const [H, W] = this.scene.size;
    return [Math.floor(this.state.y * size[0] / H), Math.floor(this.state.x * size[1] / W)];
  },

  mark(figure, size) {
    const [row, column] = this.cell(size), { style } = figure.querySelector(".mark");
    Object.assign(style, { left: `${100 * column / size[1]}%`, top: `${100 * row / size[0]}%`, width: `${100 / size[1]}%`, height: `${100 / size[0]}%` });
  },

  here(map, size) { const [row, column] = this.cell(size); return map[row * size[1] + column]; },

  draw(all) {
    const { scene, state, at } = this, word = scene.classes[state.word];
    if (all) this.drawMaps(word);
    const { labels, scores } = this.found, place = state.y * scene.size[1] + state.x, label = labels[place];
    this.drawSelf();
    for (const [id, size] of [["picture", scene.size], ["labels", scene.size]]) this.mark(at(id).closest("figure"), size);
    document.querySelectorAll("#cross figure").forEach((figure, s) => {
      const { size, map } = this.shown[s];
      this.mark(figure, size);
      figure.querySelector("output").textContent = `here ${this.here(Maths.normalise(map), size).toFixed(2)}`;
    });
    for (const id of ["layers", "heads"]) document.querySelectorAll(`#${id} .tile`).forEach(figure => { const canvas = figure.querySelector("canvas"); this.mark(figure, [canvas.height, canvas.width]); });
    const fused = this.found.fused[state.word], completed = this.found.completed[state.word];
    [["fused", scene.finest, fused], ["completed", this.found.grid, completed]].forEach(([id, size, map]) => {
      const figure = at(id).closest("figure");
      this.mark(figure, size);
      figure.querySelector("output").textContent = `here ${this.here(map, size).toFixed(2)}`;
    });
    const result = at("result").closest("figure"), said = label ? scene.classes[label - 1] : "background";
    this.mark(result, scene.size);
    result.querySelector("output").textContent = `here ${said}`;
    document.querySelectorAll(".wordrow").forEach((row, i) => {
      row.querySelector("output").textContent = scores[i][place].toFixed(2);
      row.querySelector(".bar i").style.width = `${100 * scores[i][place]}%`;
      row.querySelector(".bar u").style.left = `${100 * state.threshold}%`;
      row.classList.toggle("wins", label === i + 1);
    });
    const told = `Column ${state.x + 1}, row ${state.y + 1}: ${said}.`;
    const listed = scene.classes.map((name, i) => `${name} ${scores[i][place].toFixed(2)}`).join(", ");
    const text = `${told} ${this.strongest}`;
    at("readout").textContent = text;
    at("picture").setAttribute("aria-label", `Picture of ${scene.size[1]} by ${scene.size[0]} pixels. ${told}`);
    clearTimeout(this.speaking);
    this.speaking = setTimeout(() => { at("live").textContent = `${told} Scores: ${listed}; threshold ${state.threshold.toFixed(2)}. ${this.strongest}`; }, 250);
  },

  drawSelf() {
    const { scene, state } = this;
    document.querySelectorAll("#self figure").forEach((figure, j) => {
      const grid = scene.grid(j), [row, column] = this.cell(grid), one = scene.row(state.stop, j, state.word, row * grid[1] + column), most = Maths.bounds(one.map)[1];
      const where = one.map.indexOf(most), place = `row ${Math.floor(where / grid[1]) + 1}, column ${where % grid[1] + 1} of ${grid[1]} × ${grid[0]}`;
      this.heat(figure.querySelector("canvas"), one, true);
      this.mark(figure, grid);
      figure.querySelector("output").textContent = `up to ${(100 * most).toFixed(1)}\u00a0%`;
      figure.querySelector("canvas").setAttribute("aria-label", `What the pixel attends to at ${figure.querySelector("b").textContent}: most, ${(100 * most).toFixed(1)} %, at ${place}`);
      if (j === 0) this.strongest = `It attends most, ${(100 * most).toFixed(1)} %, to ${place}.`;
    });
  },

  drawMaps(word) {
    const { scene, state, at } = this;
    this.found = scene.compute(state);
    document.querySelectorAll("em.word").forEach(one => { one.textContent = word; });
    document.querySelectorAll(".wordrow input").forEach((one, i) => { one.checked = i === state.word; });
    this.shown = scene.strides.map(stride => scene.stride(state.stop, stride, state.word));
    document.querySelectorAll("#cross figure").forEach((figure, s) => {
      const weight = state.weights[s];
      this.heat(figure.querySelector("canvas"), this.shown[s]);
      figure.querySelector("canvas").setAttribute("aria-label", `Cross-attention map of ${word} at ${figure.querySelector("b").textContent}`);
      figure.querySelector(".weight b").textContent = weight ? weight.toFixed(2) : "0: not used";
      figure.querySelector("input").value = weight;
    });
    const buttons = [...document.querySelectorAll("#layers .tile")];
    buttons.forEach((button, i) => {
      this.heat(button.querySelector("canvas"), scene.layer(state.stop, i, state.word));
      button.setAttribute("aria-pressed", i === state.layer);
    });
    this.drawHeads(word);
    this.heat(at("fused"), { map: this.found.fused[state.word], size: scene.finest });
    this.heat(at("completed"), { map: this.found.completed[state.word], size: this.found.grid });
    at("fused").setAttribute("aria-label", `Fused map of ${word}`);
    at("completed").setAttribute("aria-label", `Map of ${word} after ${state.rounds} rounds of completion`);
    const { labels } = this.found, colours = [GROUND, ...scene.colours], shares = colours.map((_, i) => labels.reduce((n, v) => n + (v === i), 0) / labels.length);
    for (const id of ["labels", "result"]) {
      this.paint(at(id), scene.size, i => colours[labels[i]]);
      at(id).setAttribute("aria-label", `Labels: ${scene.classes.map((name, i) => `${name} ${(100 * shares[i + 1]).toFixed(1)} %`).join(", ")} of the picture`);
    }
    at("picture-frame").style.aspectRatio = `${scene.size[1]} / ${scene.size[0]}`;
    const library = scene.raw("library"), same = labels.reduce((n, v, i) => n + (v === library[i]), 0) / labels.length;
    at("agree").textContent = `${this.percent(same)} as in the library`;
    this.values();
    const nothing = state.weights.every(v => !v);
    this.say(nothing ? "All weights are 0, so there is nothing to fuse: give one resolution a weight." : "");
    at("reset").disabled = this.isOwn();
    const kept = "The layers' and heads' mean self-attention is kept as queries and keys of at most 16 numbers a pixel, one byte each";
    const mean = scene.classes.length > 1 && !scene.own.every(Boolean) ? `, as the mean over words at ${scene.own.every(v => !v) ? "all timesteps" : "the timesteps that the library does not take"}` : "";
    const pooled = scene.resolutions[0].cell > 1 ? `, and pooled from ${scene.resolutions[0].size[1]} × ${scene.resolutions[0].size[0]} to ${scene.grid(0)[1]} × ${scene.grid(0)[0]} pixels` : "";
    at("about").textContent = `Recorded from the model ${scene.model}. ${kept}${mean}${pooled}. At the library's settings the labels here are its own on ${this.percent(scene.agreement)} of the pixels. Everything is computed in this page; nothing is loaded from a network.`;
  },

  percent(share) { return `${share === 1 ? 100 : Math.min(99.9, 100 * share).toFixed(1)} %`; },

  isOwn() {
    const { stop, weights, rounds, threshold } = this.state;
    return JSON.stringify(this.own()) === JSON.stringify({ stop, weights, rounds, threshold });
  },

  drawHeads(word) {
    const { scene, state, at } = this, layer = scene.layers[state.layer], count = scene.heads(state.layer);
    at("heads-title").textContent = `The ${count === 1 ? "one head" : `${count} heads`} of ${layer.name}`;
    at("heads").replaceChildren(...Array.from({ length: count }, (_, head) => {
      const figure = document.createElement("figure");
      figure.className = "tile";
      figure.innerHTML = `<div class="frame tap"><canvas role="img" aria-label=""></canvas><i class="mark"></i></div><figcaption>head ${head + 1}</figcaption>`;
      this.heat(figure.querySelector("canvas"), scene.head(state.stop, state.layer, state.word, head));
      figure.querySelector("canvas").setAttribute("aria-label", `Map of ${word} in head ${head + 1} of ${layer.name}`);
      return figure;
    }));
  },

  values() {
    const { scene, state, at } = this, noise = scene.stops[state.stop].name;
    at("stop").value = state.stop;
    at("stop-value").textContent = noise;
    at("stop").setAttribute("aria-valuetext", noise);
    at("rounds").value = state.rounds;
    at("rounds-value").textContent = state.rounds;
    at("threshold").value = state.threshold;
    at("threshold-value").textContent = state.threshold.toFixed(2);
  },
};
