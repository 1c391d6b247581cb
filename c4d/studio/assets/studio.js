"use strict";
// Clips of one page that play in one clock, and a clip that plays while it is made; what python writes is found by class.
(() => {
  const loaded = (image) => image.decode().catch(() => undefined);
  const context = (canvas) => canvas.getContext("2d", { willReadFrequently: true });

  async function player(root) {
    const count = +root.dataset.frames, fps = +root.dataset.fps;
    const images = Object.fromEntries([...root.querySelectorAll("img[data-name]")].map((each) => [each.dataset.name, each]));
    await Promise.all(Object.values(images).map(loaded));
    const first = Object.values(images)[0];
    if (!first) return;
    const width = first.naturalWidth / count, height = first.naturalHeight;
    const views = [...root.querySelectorAll("[data-view]")].map((figure) => {
      const canvas = figure.querySelector("canvas");
      [canvas.width, canvas.height] = [width, height];
      return { name: figure.dataset.view, canvas: context(canvas) };
    });
    const [play, slider, gain] = ["play", "frame", "gain"].map((name) => root.querySelector(`.${name}`));
    const state = { frame: 0, playing: count > 1, since: performance.now() };
    function show() {
      const pixels = {};
      for (const view of views.filter((each) => images[each.name])) {
        view.canvas.drawImage(images[view.name], state.frame * width, 0, width, height, 0, 0, width, height);
        pixels[view.name] = view.canvas.getImageData(0, 0, width, height);
      }
      const difference = views.find((each) => each.name === "difference");
      if (difference) {
        const out = difference.canvas.createImageData(width, height), by = +gain.value;
        const one = pixels.uncached.data, other = pixels.cached.data;
        for (let i = 0; i < one.length; i++) out.data[i] = i % 4 === 3 ? 255 : by * Math.abs(one[i] - other[i]);
        difference.canvas.putImageData(out, 0, 0);
        root.querySelector("output").textContent = by;
      }
      slider.value = state.frame;
      root.dataset.shown = state.frame;
    }
    function tick(now) {
      if (!root.isConnected) return;
      if (state.playing && now - state.since >= 1000 / fps) {
        state.since = now;
        state.frame = (state.frame + 1) % count;
        show();
      }
      requestAnimationFrame(tick);
    }
    play.addEventListener("click", () => {
      state.playing = !state.playing;
      play.textContent = state.playing ? "pause" : "play";
    });
    slider.addEventListener("input", () => {
      [state.playing, state.frame] = [false, +slider.value];
      play.textContent = "play";
      show();
    });
    gain.addEventListener("input", show);
    show();
    requestAnimationFrame(tick);
  }

  // A stream's element is written anew with each block: what has come so far is kept by its run.
  const streams = new Map();
  async function stream(root) {
    const run = root.dataset.run;
    if (!streams.has(run)) streams.clear();
    const state = streams.get(run) || { blocks: new Map(), at: 0, since: 0 };
    streams.set(run, state);
    state.root = root;
    for (const image of root.querySelectorAll("img[data-block]"))
      if (!state.blocks.has(+image.dataset.block)) state.blocks.set(+image.dataset.block, image);
    state.fps = +root.dataset.fps;
    state.ended = root.dataset.ended === "1";
    draw(state);
    if (!state.running) requestAnimationFrame((now) => play(state, now));
    state.running = true;
  }
  const frames = (state) => {
    const found = [];
    for (const n of [...state.blocks.keys()].sort((a, b) => a - b)) {  // a busy page may have missed some
      const image = state.blocks.get(n), count = +image.dataset.frames;
      if (!image.complete || !image.naturalWidth) break;
      for (let i = 0; i < count; i++) found.push([image, i, image.naturalWidth / count]);
    }
    return found;
  };
  function draw(state) {
    const all = frames(state), canvas = state.root.querySelector("canvas");
    if (!all.length) return;
    const [image, i, width] = all[Math.min(state.at, all.length - 1)];
    if (canvas.width !== width) [canvas.width, canvas.height] = [width, image.naturalHeight];
    canvas.getContext("2d").drawImage(image, i * width, 0, width, image.naturalHeight, 0, 0, width, image.naturalHeight);
    state.root.dataset.shown = Math.min(state.at, all.length - 1);
  }
  function play(state, now) {
    if (streams.get(state.root.dataset.run) !== state) return;
    if (now - state.since >= 1000 / state.fps) {
      const length = frames(state).length;
      state.since = now;
      if (state.at + 1 < length) state.at += 1;
      else if (state.ended && length) state.at = 0;
      draw(state);
    }
    requestAnimationFrame((later) => play(state, later));
  }

  // On a narrow screen what is made stands below the form: whoever asked for it is taken there.
  document.addEventListener("click", (event) => {
    const go = event.target.closest?.(".c4d-go"), made = go?.closest(".tabitem")?.querySelector(".c4d-made");
    if (made && made.getBoundingClientRect().top >= innerHeight / 2) made.scrollIntoView({ behavior: "smooth" });
  });

  const begun = new WeakSet();
  const look = () => {
    for (const [name, begin] of [[".c4d-player", player], [".c4d-stream", stream]])
      for (const root of document.querySelectorAll(name))
        if (!begun.has(root)) {
          begun.add(root);
          begin(root);
        }
  };
  new MutationObserver(look).observe(document.documentElement, { childList: true, subtree: true });
  look();
})();
