"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const pictures = JSON.parse(document.getElementById("pictures").textContent);
const $ = (id) => document.getElementById(id);
const UNCACHED = "uncached", PLAIN = "plain steps", LEVELS = "plain steps at chosen noise levels", PEER = "another library's cache", EQUAL = 120;
const uncached = data.contenders.find((one) => one.kind === UNCACHED);
const all = data.contenders.filter((one) => one.kind !== UNCACHED);
const scores = data.metrics;
const state = { prompt: 0, one: null, swapped: false, frame: 0, playing: true, plot: "mean", sort: "share", down: false };

// -- words

const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)}\u00a0%`;
const decibels = (value) => (value >= EQUAL ? "equal" : `${value.toFixed(1)}\u00a0dB`);
const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(1)}`;
const closeness = (one, which) => one.scores.PSNR[which];
function flops(count) {
  const units = ["FLOPs", "KFLOPs", "MFLOPs", "GFLOPs", "TFLOPs", "PFLOPs"];
  let i = 0;
  for (; count >= 1000 && i < 5; i++) count /= 1000;
  return `${i ? count.toPrecision(3) : count}\u00a0${units[i]}`;
}
function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB"];
  let i = 0;
  for (; count >= 1024 && i < 3; i++) count /= 1024;
  return `${i ? count.toFixed(1) : count} ${units[i]}`;
}
function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "line", "path", "circle", "rect", "text", "title"].includes(tag);
  const node = svg ? document.createElementNS($("plot").firstElementChild.namespaceURI, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// -- which setting

function limits() {
  const read = (id) => ($(id).value === "" || !Number.isFinite(+$(id).value) ? null : +$(id).value);
  return { least: read("least"), most: read("most"), which: $("which").value };
}
function fitting(candidates, { least, most, which }) {
  const fit = candidates.filter((one) =>
    (least === null || closeness(one, which) >= least) && (most === null || 100 * one.share <= most + 0.05));
  const cheap = (a, b) => a.share - b.share || closeness(b, which) - closeness(a, which);
  const close = (a, b) => closeness(b, which) - closeness(a, which) || a.share - b.share;
  return fit.sort(most === null && least !== null ? cheap : close)[0] || null;
}
function answer() {
  const asked = limits(), found = fitting(all.filter((one) => one.kind !== LEVELS && !one.cached_nothing), asked);
  const said = $("answer");
  said.replaceChildren();
  $("command-box").hidden = !found;
  if (!found) {
    const best = [...all].sort((a, b) => closeness(b, asked.which) - closeness(a, asked.which))[0];
    const far = best ? ` The closest of all, ${best.name}, comes to ${decibels(closeness(best, "mean"))}, worst ${decibels(closeness(best, "worst"))}, for ${percent(best.share)}.` : "";
    said.append(`Nothing that was measured does that: ask for less, or allow more work.${far}`);
  } else {
    said.append("Take ", make("b", {}, found.name), `: it computes ${percent(found.share)} of the work and comes to ${decibels(closeness(found, "mean"))} in the mean, ${decibels(closeness(found, "worst"))} in the worst prompt`);
    found.beside.forEach((plain, i) => {
      const undecided = plain.clips > 1 && plain.low <= 0 && plain.high >= 0 ? " (these prompts do not decide it)" : "";
      const far = `${Math.abs(plain.mean).toFixed(1)}\u00a0dB ${plain.mean < 0 ? "further off" : "closer"} than ${plain.name}${undecided}`;
      said.append(i ? `, and ${far}` : `; that is ${far}`);
    });
    said.append(found.beside.length ? ", which cost as much or the next more." : ".");
    const levels = fitting(all.filter((one) => one.kind === LEVELS), asked);
    const cheaper = asked.most === null && levels && levels.share < found.share - 1e-6;
    if (cheaper) said.append(` ${levels.name} would do it for ${percent(levels.share)}; no option of c4d generate makes them.`);
    const line = data.commands[found.name];
    $("command").textContent = line ?? `none: c4d has no command for ${found.name}, ${found.peer ? PEER : found.kind}`;
    $("copy").hidden = line === undefined;
  }
  draw();
}
$("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText($("command").textContent);
  } catch {  // pages that lie on a disk may not use it everywhere
    const range = document.createRange();
    range.selectNodeContents($("command"));
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    document.execCommand("copy");
  }
  $("copy").textContent = "copied";
  setTimeout(() => { $("copy").textContent = "copy"; }, 1500);
});
for (const id of ["least", "most", "which"]) $(id).addEventListener("input", answer);

// -- the plot

function ticks(low, high, count) {
  const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
  const found = [];
  for (let t = Math.ceil(low / step) * step; t <= high + 1e-9; t += step) found.push(+t.toFixed(6));
  return found;
}
const ruler = document.createElement("canvas").getContext("2d");
ruler.font = "600 12px system-ui, sans-serif";
function draw() {
  const box = $("plot"), width = Math.max(280, box.clientWidth), narrow = width < 640;
  const height = narrow ? 300 : 420, left = 38, right = narrow ? 14 : 24, top = 18, bottom = 40;
  const which = state.plot, value = (one) => closeness(one, which);
  const finite = all.map(value).filter((v) => v < EQUAL);
  const low = Math.min(...finite, ...(finite.length ? [] : [0])), high = Math.max(...finite, ...(finite.length ? [] : [1]));
  const pad = Math.max(1, (high - low) * 0.08), y0 = low - pad, y1 = high + pad;
  const x1 = Math.min(1, Math.max(...all.map((one) => one.share)) * 1.08);
  const x0 = Math.max(0, Math.min(...all.map((one) => one.share)) - 0.06 * x1);
  const x = (share) => left + (share - x0) / (x1 - x0) * (width - left - right);
  const y = (v) => Math.max(top - 6, top + (y1 - v) / (y1 - y0) * (height - top - bottom));
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": "closeness against cost" });
  const text = (px, py, words, kind = "", anchor = "start") => svg.append(make("text", { x: px, y: py, class: kind, "text-anchor": anchor }, words));
  for (const t of ticks(y0, y1, narrow ? 4 : 6)) {
    svg.append(make("line", { class: "grid", x1: left, x2: width - right, y1: y(t), y2: y(t) }));
    text(left - 6, y(t) + 4, t, "", "end");
  }
  for (const t of ticks(100 * x0, 100 * x1, narrow ? 5 : 9)) text(x(t / 100), height - bottom + 18, `${t}%`, "", "middle");
  svg.append(make("line", { class: "axis", x1: left, x2: width - right, y1: height - bottom, y2: height - bottom }));
  text((left + width - right) / 2, height - 4, "of the work computed", "", "middle");
  text(0, 10, "dB");
  const asked = limits();
  if (asked.least !== null && asked.which === which && asked.least > y0 && asked.least < y1)
    svg.append(make("line", { class: "limit", x1: left, x2: width - right, y1: y(asked.least), y2: y(asked.least) }));
  if (asked.most !== null && asked.most / 100 > x0 && asked.most / 100 < x1)
    svg.append(make("line", { class: "limit", x1: x(asked.most / 100), x2: x(asked.most / 100), y1: top, y2: height - bottom }));
  const taken = all.map((one) => [x(one.share) - 7, y(value(one)) - 7, x(one.share) + 7, y(value(one)) + 7]);
  const place = (px, py, words, kind) => {  // where a label hides the least
    const w = ruler.measureText(words).width, spots = [[px + 10, py + 4], [px - 10 - w, py + 4], [px - w / 2, py - 11], [px - w / 2, py + 20],
      [px + 8, py - 9], [px - 8 - w, py - 9], [px + 8, py + 18], [px - 8 - w, py + 18], [px + 14, py - 24], [px - 14 - w, py - 24], [px + 14, py + 32], [px - 14 - w, py + 32], [px - w, py + 40], [px - w, py + 54], [px - w, py - 40]];
    const cost = ([a, b]) => {
      const area = taken.reduce((sum, [l, t, r, d]) => sum + Math.max(0, Math.min(a + w, r) - Math.max(a, l)) * Math.max(0, Math.min(b + 3, d) - Math.max(b - 11, t)), 0);
      return area + 0.6 * Math.hypot(a + w / 2 - px, b - 4 - py) + 60 * (Math.max(0, left - a) + Math.max(0, a + w - width) + Math.max(0, top - 8 - b + 11) + Math.max(0, b - height + bottom));
    };
    const costs = spots.map(cost), [a, b] = spots[costs.indexOf(Math.min(...costs))];
    taken.push([a, b - 11, a + w, b + 3]);
    text(a, b, words, kind);
  };
  for (const [kind, name] of [[PLAIN, "plain"], [LEVELS, "levels"]]) {
    const line = all.filter((one) => one.kind === kind).sort((a, b) => a.share - b.share);
    for (let i = 1; i < line.length; i++)  // labels keep off the lines, too
      for (let part = 0; part < 1; part += 0.05) {
        const [px, py] = [x, (one) => y(value(one))].map((at, axis) => {
          const [a, b] = [line[i - 1], line[i]].map((one) => at(axis ? one : one.share));
          return a + part * (b - a);
        });
        taken.push([px - 1, py - 3, px + 1, py + 3]);
      }
    if (line.length > 1) svg.append(make("path", { class: `${name}-line`, d: line.map((one, i) => `${i ? "L" : "M"}${x(one.share)} ${y(value(one))}`).join("") }));
  }
  const points = [...all].sort((a, b) => a.front - b.front || (a.kind === PLAIN) - (b.kind === PLAIN));
  for (const one of points) {
    const px = x(one.share), py = y(value(one)), chosen = state.one === one ? " chosen" : "";
    const base = one.kind === PLAIN ? "plain-mark" : one.kind === LEVELS ? "levels-mark" : one.front ? "best" : "other";
    const mark = one.kind === PLAIN || one.kind === LEVELS
      ? make("rect", { x: px - 3.5, y: py - 3.5, width: 7, height: 7 })
      : make("circle", { cx: px, cy: py, r: one.front ? 6 : 4.5 });
    for (const [name, v] of Object.entries({ class: `point ${base}${chosen}`, tabindex: 0, role: "button" })) mark.setAttribute(name, v);
    const said = `${one.name}: ${percent(one.share)} of the work, ${decibels(closeness(one, "mean"))} in the mean, worst ${decibels(closeness(one, "worst"))}`;
    mark.setAttribute("aria-label", said);
    mark.append(make("title", {}, said));
    mark.addEventListener("click", () => choose(one));
    mark.addEventListener("keydown", (event) => { if (event.key === "Enter") choose(one); });
    svg.append(mark);
  }
  const legend = $("legend");
  legend.replaceChildren();
  for (const [kind, name, words] of [[PLAIN, "plain", "plain steps"], [LEVELS, "levels", narrow ? "at chosen levels" : "plain steps at chosen noise levels"]]) {
    const line = all.filter((one) => one.kind === kind).sort((a, b) => a.share - b.share), end = line[line.length - 1];
    if (end) place(x(end.share), y(value(end)), words, `${name}-text`);
  }
  const best = all.filter((one) => one.front && one.kind !== PLAIN && one.kind !== LEVELS).sort((a, b) => a.share - b.share);
  best.forEach((one, i) => {
    place(x(one.share), y(value(one)), narrow ? `${i + 1}` : one.name, "best-text");
    if (narrow) legend.append(make("li", {}, `${one.name} `));
  });
  legend.hidden = !narrow || !best.length;
  box.replaceChildren(svg);
}
for (const button of document.querySelectorAll("[data-plot]"))
  button.addEventListener("click", () => {
    state.plot = button.dataset.plot;
    for (const other of document.querySelectorAll("[data-plot]")) other.setAttribute("aria-pressed", other === button);
    draw();
  });
addEventListener("resize", draw);

// -- pictures, drawn from film strips, all at the same frame

const loaded = new Map();
function strip(name) {
  if (!(name in pictures)) return null;
  if (!loaded.has(name)) {
    const image = new Image();
    image.src = pictures[name];
    loaded.set(name, image);
    image.decode().then(paint, () => {});
  }
  return loaded.get(name);
}
const length = Math.min(data.clip_frames, data.strip_frames);
const shown = data.prompts.filter((_, i) => `${uncached.prompts[i].name}.strip` in pictures).length;
function show(canvas, image) {
  const context = canvas.getContext("2d");
  if (!image || !image.complete || !image.naturalWidth) return;
  const width = image.naturalWidth / length, height = image.naturalHeight;
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  context.drawImage(image, state.frame * width, 0, width, height, 0, 0, width, height);
  document.body.classList.toggle("small", Math.max(width, height) < 200);
}
function paint() {
  if (!shown || !state.one) return;
  const mine = state.one.prompts[state.prompt].name, theirs = uncached.prompts[state.prompt].name;
  show($("view-one"), strip(`${state.swapped ? theirs : mine}.strip`));
  show($("view-uncached"), strip(`${theirs}.strip`));
  show($("view-difference"), strip(`${mine}.difference`));
  for (const button of $("wall").children) show(button.firstChild, strip(`${button.contender.prompts[state.prompt].name}.strip`));
  if ($("frame")) $("frame").value = state.frame;
}
function figures(cell) {
  const said = scores.filter((m) => cell.scores[m.name] !== null).map((m) => m.name === "PSNR" ? decibels(cell.scores.PSNR) : `${m.name} ${cell.scores[m.name].toFixed(4)}`);
  const seconds = [...cell.seconds].sort((a, b) => a - b);
  return [...said, `${seconds[seconds.length >> 1].toPrecision(3)} s`,
    ...(cell.judged === null ? [] : [cell.judged ? "shows what was asked for" : "does not show what was asked for"])].join(" · ");
}
function choose(one) {
  state.one = one;
  $("contender").value = one.name;
  $("said-one").textContent = state.swapped ? "uncached, swapped in" : one.name;
  $("view-one").parentElement.classList.toggle("swapped", state.swapped);
  $("swap").setAttribute("aria-pressed", state.swapped);
  const cell = one.prompts[state.prompt];
  if (cell) $("about-one").textContent = `“${data.prompts[state.prompt].prompt}”, seed ${data.prompts[state.prompt].seed}: ${figures(cell)}`;
  for (const button of $("wall").children) {
    const theirs = button.contender.prompts[state.prompt];
    button.setAttribute("aria-pressed", button.contender === one);
    button.lastChild.textContent = button.contender === uncached ? "all the work" : `${decibels(theirs.scores.PSNR)}, ${percent(theirs.share)}`;
  }
  for (const row of document.querySelectorAll("tbody tr")) row.classList.toggle("chosen", row.contender === one);
  draw();
  paint();
}
function swap() {
  state.swapped = !state.swapped;
  choose(state.one);
}
function move(list, now, by) {
  return list[(list.indexOf(now) + by + list.length) % list.length];
}
function prompt(i) {
  state.prompt = i;
  $("prompt").value = i;
  choose(state.one);
}
const order = [...all].sort((a, b) => a.share - b.share || closeness(b, "mean") - closeness(a, "mean"));
data.prompts.slice(0, shown).forEach((asked, i) => $("prompt").append(make("option", { value: i }, asked.prompt)));
for (const one of order) $("contender").append(make("option", { value: one.name }, one.name));
for (const one of [uncached, ...order]) {
  const button = make("button", { type: "button", "aria-pressed": false }, make("canvas"), make("b", {}, one.name), make("span"));
  button.contender = one;
  button.addEventListener("click", () => one === uncached ? swap() : choose(one));
  $("wall").append(button);
}
$("prompt").addEventListener("input", () => prompt(+$("prompt").value));
$("contender").addEventListener("input", () => choose(all.find((one) => one.name === $("contender").value)));
$("swap").addEventListener("click", swap);
function play(on) {
  state.playing = on;
  $("play").textContent = on ? "pause" : "play";
  $("play").setAttribute("aria-pressed", on);
}
if ($("play")) {
  $("frame").max = length - 1;
  $("frame").addEventListener("input", () => { play(false); state.frame = +$("frame").value; paint(); });
  $("play").addEventListener("click", () => play(!state.playing));
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) play(false);
  setInterval(() => { if (state.playing) { state.frame = (state.frame + 1) % length; paint(); } }, 1000 * data.clip_frames / data.fps / length);
}
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, button, textarea, .scroll")) return;
  const list = data.prompts.slice(0, shown).map((_, i) => i);
  const act = {
    " ": swap,
    ArrowLeft: () => choose(move(order, state.one, -1)),
    ArrowRight: () => choose(move(order, state.one, 1)),
    ArrowUp: () => prompt(move(list, state.prompt, -1)),
    ArrowDown: () => prompt(move(list, state.prompt, 1)),
    p: () => { if ($("play")) play(!state.playing); },
  }[event.key];
  const seen = $("view-one").getBoundingClientRect();  // elsewhere on the page these keys scroll
  if (!act || !state.one || seen.bottom < 0 || seen.top > innerHeight) return;
  event.preventDefault();
  act();
});

// -- the table

const beside = (one, kind) => one.beside.find((plain) => plain.name.endsWith(kind));
function difference(one, kind) {
  const plain = beside(one, kind);
  if (!plain) return ["–"];
  const verdict = plain.clips < 2 ? "" : plain.low > 0 ? "better" : plain.high < 0 ? "worse" : "";
  const interval = plain.clips < 2 ? "" : `${signed(plain.low)} … ${signed(plain.high)}, `;
  return [make("span", { class: verdict }, signed(plain.mean)), make("small", {}, `${interval}${parseInt(plain.name)} steps`)];
}
function range(one) {
  const seconds = one.prompts.flatMap((cell) => cell.seconds), say = (value) => value.toPrecision(2);
  return `${say(one.seconds)} s${seconds.length > 1 ? ` (${say(Math.min(...seconds))} … ${say(Math.max(...seconds))})` : ""}`;
}
const gain = (one, kind) => (beside(one, kind) || { mean: -Infinity }).mean;
const columns = [
  { id: "name", title: "contender", value: (one) => one.name },
  { id: "share", title: "work", value: (one) => one.share, cell: (one) => [percent(one.share)] },
  { id: "flops", title: "FLOPs", value: (one) => one.flops_share ?? Infinity, cell: (one) => one.flops_share === null ? ["–"] : [percent(one.flops_share), make("small", {}, flops(one.flops))] },
  { id: "mean", title: "PSNR mean", value: (one) => closeness(one, "mean"), cell: (one) => [decibels(closeness(one, "mean"))], down: true },
  { id: "worst", title: "worst", value: (one) => closeness(one, "worst"), cell: (one) => [decibels(closeness(one, "worst"))], down: true },
  { id: "plain", title: "dB to plain steps of its cost", value: (one) => gain(one, PLAIN), cell: (one) => difference(one, PLAIN), down: true },
  { id: "levels", title: "dB to those at chosen noise levels", value: (one) => gain(one, LEVELS), cell: (one) => difference(one, LEVELS), down: true, when: () => all.some((one) => one.kind === LEVELS) },
  ...scores.filter((metric) => metric.name !== "PSNR").map((metric) => ({
    id: metric.name, title: `${metric.name} mean, worst`, value: (one) => one.scores[metric.name].mean ?? -Infinity, down: metric.better === "higher",
    cell: ({ scores: { [metric.name]: found } }) => found.mean === null ? ["–"] : [found.mean.toFixed(4), make("small", {}, found.worst.toFixed(4))],
    when: () => all.some((one) => one.scores[metric.name].mean !== null),
  })),
  { id: "fast", title: "times as fast", value: (one) => one.times_as_fast, cell: (one) => [`${one.times_as_fast.toFixed(2)}×`, make("small", {}, range(one))], down: true },
  { id: "bytes", title: "cache", value: (one) => one.bytes, cell: (one) => [one.bytes === null ? "–" : bytes(one.bytes)] },
  { id: "rows", title: "block-rows", value: (one) => one.block_rows ?? Infinity, cell: (one) => [one.block_rows === null ? "–" : one.block_rows.toLocaleString("en")] },
  { id: "judged", title: "as asked", value: (one) => one.judged ? one.judged.as_asked / one.judged.of : -1, cell: (one) => [one.judged ? `${one.judged.as_asked} of ${one.judged.of}` : "–"], down: true, when: () => all.some((one) => one.judged) },
].filter((column) => !column.when || column.when());
const head = make("tr");
for (const column of columns) {
  const button = make("button", { type: "button" }, column.title), cell = make("th", { scope: "col" }, button);
  button.addEventListener("click", () => {
    state.down = state.sort === column.id ? !state.down : Boolean(column.down);
    state.sort = column.id;
    tabulate();
  });
  column.head = cell;
  head.append(cell);
}
document.querySelector("thead").append(head);
function tabulate() {
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean), kind = $("kind").value;
  const plain = (one) => one.kind === PLAIN || one.kind === LEVELS || one.kind === UNCACHED, peers = (one) => one.kind === PEER;
  const wanted = { all: () => true, methods: (one) => !plain(one) && !peers(one), peers, plain, front: (one) => one.front }[kind];
  const column = columns.find((each) => each.id === state.sort), sign = state.down ? -1 : 1;
  const rank = (a, b) => sign * (column.value(a) < column.value(b) ? -1 : column.value(a) > column.value(b) ? 1 : 0);
  const rows = data.contenders.filter((one) => wanted(one) && words.every((word) => one.name.toLowerCase().includes(word)));
  for (const each of columns) each === column ? each.head.setAttribute("aria-sort", state.down ? "descending" : "ascending") : each.head.removeAttribute("aria-sort");
  document.querySelector("tbody").replaceChildren(...rows.sort(rank).map((one) => {
    const name = one === uncached ? one.name : make("button", { type: "button", title: "show its pictures" }, one.name);
    const row = make("tr", { class: `${one.front ? "front" : ""} ${one === state.one ? "chosen" : ""}` });
    row.contender = one;
    if (one !== uncached) name.addEventListener("click", () => { choose(one); $("see-title").scrollIntoView({ block: "start" }); });
    const about = [one.kind === PEER ? `${PEER}, no command in c4d` : "", one.cached_nothing ? "cached nothing: it computed every step whole" : ""].filter(Boolean);
    row.append(make("td", {}, name, ...about.map((words) => make("small", {}, words))), ...columns.slice(1).map((each) => make("td", {}, ...each.cell(one))));
    return row;
  }));
}
$("filter").addEventListener("input", tabulate);
$("kind").addEventListener("input", tabulate);

// -- begin: the closest of those that cost no more than the middle one

const costs = all.map((one) => one.share).sort((a, b) => a - b);
if (all.length) {
  $("most").value = Math.ceil(100 * costs[costs.length >> 1]);
  state.one = fitting(all.filter((one) => one.kind !== LEVELS && !one.cached_nothing), limits()) || all[0];
  tabulate();
  choose(state.one);
  answer();
}
document.body.dataset.ready = "yes";
