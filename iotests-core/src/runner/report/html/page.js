
"use strict";
const $ = id => document.getElementById(id);
const data = JSON.parse($("index").textContent);
const HEIGHT = 46;

// An element with text and children; text is never markup.
function make(tag, set, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(set || {})) {
    if (name in element && name !== "list") element[name] = value; else element.setAttribute(name, value);
  }
  element.append(...children.filter(child => child !== null && child !== undefined));
  return element;
}

function time(ms) {
  if (ms < 1000) return ms + " ms";
  if (ms < 60000) return (ms / 1000).toFixed(1) + " s";
  return Math.floor(ms / 60000) + " min " + String(Math.floor(ms / 1000) % 60).padStart(2, "0") + " s";
}

const rows = data.rows.map((row, number) => {
  const [name, description, place, upstream, groups] = data.cases[row[0]];
  const id = row[1].startsWith("=") ? row[1].slice(1) : name + row[1];
  return { number, id, description, place, upstream, groups, verdict: row[2], ms: row[3], format: row[4], set: row[5], why: row[6],
    attempts: row[7], lane: row[8], text: [id, description, row[6], upstream].join("\n").toLowerCase() };
});
const kind = row => data.verdicts[row.verdict][2];
const word = row => data.verdicts[row.verdict][0];
const isFailure = row => kind(row) === "fail";
const counted = new Map();
for (const row of rows) counted.set(row.verdict, (counted.get(row.verdict) || 0) + 1);

// What is chosen.
const state = { tab: "", q: "", verdicts: new Set(), format: "", set: "", group: "", open: null };
let shown = rows;
// Rows in the order in which the view has them, for the keys.
let order = rows;

function choose() {
  const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
  shown = rows.filter(row => (!state.verdicts.size || state.verdicts.has(row.verdict))
    && (state.format === "" || row.format === +state.format) && (state.set === "" || row.set === +state.set)
    && (state.group === "" || row.groups.includes(state.group)) && words.every(word => row.text.includes(word)));
  $("shown").textContent = shown.length === rows.length ? rows.length + " instances" : shown.length + " of " + rows.length;
  draw();
}

function line(row) {
  const element = make("div", { className: "row", role: "button", tabIndex: -1, title: row.id },
    make("span", { className: "verdict " + kind(row) }, word(row)),
    make("span", { className: "time" }, row.ms ? time(row.ms) : ""),
    make("span", {}, make("span", { className: "id" }, row.id), make("small", {}, row.description)),
    make("span", { className: "dim", title: row.why }, row.why));
  element.dataset.row = row.number;
  element.setAttribute("aria-current", state.open === row.number);
  return element;
}

const views = {
  failures: ["Failures", () => {
    const visible = new Set(shown.map(row => row.number));
    order = [];
    const view = document.createDocumentFragment();
    for (const [headline, members] of data.causes) {
      const here = members.filter(number => visible.has(number)).map(number => rows[number]);
      if (!here.length) continue;
      order.push(...here);
      const group = make("details", { className: "cause", open: true },
        make("summary", {}, make("b", { className: "fail" }, here.length > 1 ? here.length + " ×" : word(here[0])), headline));
      // What all of them say is said once.
      const part = row => { const element = line(row); if (row.why === headline) element.lastChild.textContent = ""; return element; };
      const some = here.slice(0, 100);
      group.append(...some.map(part));
      if (here.length > some.length) {
        const more = make("button", { onclick: () => more.replaceWith(...here.slice(some.length).map(part)) }, "Show " + (here.length - some.length) + " more");
        group.append(more);
      }
      view.append(group);
    }
    return order.length ? view : empty(data.causes.length ? "No failures match the filters." : "Nothing failed.");
  }],
  instances: ["Instances", () => {
    order = shown;
    const list = make("div", { id: "list" });
    list.style.height = shown.length * HEIGHT + "px";
    list.style.position = "relative";
    requestAnimationFrame(slide);
    return shown.length ? list : empty("No instances match the filters.");
  }],
  timeline: ["Timeline", () => { order = shown; requestAnimationFrame(chart); return make("div", {}, make("p", { className: "dim" },
    "A line for each slot of instances that run at the same time, over ", time(data.elapsed), ". "),
    make("button", { onclick: () => { zoom *= 2; chart(); } }, "+"), " ", make("button", { onclick: () => { zoom = Math.max(1, zoom / 2); chart(); } }, "−"),
    make("div", { id: "chart" }, make("canvas", { id: "canvas" }))); }],
  slowest: ["Slowest", () => {
    order = shown.filter(row => row.ms).sort((a, b) => b.ms - a.ms).slice(0, 100);
    if (!order.length) return empty("Nothing ran.");
    const total = shown.reduce((sum, row) => sum + row.ms, 0);
    const view = make("div", {}, make("p", { className: "dim" }, "The slowest of the instances shown, which took " + time(total) + " in all."));
    for (const row of order) {
      const element = line(row);
      const meter = make("div", { className: "meter" });
      meter.style.width = 100 * row.ms / order[0].ms + "%";
      element.lastChild.replaceChildren((100 * row.ms / total).toFixed(1) + " %", meter);
      view.append(element);
    }
    return view;
  }],
  skips: ["Skips", () => {
    const view = document.createDocumentFragment();
    order = [];
    const groups = new Map();
    for (const row of shown) {
      if (word(row) !== "skip") continue;
      if (groups.has(row.why)) groups.get(row.why).push(row); else groups.set(row.why, [row]);
    }
    for (const [reason, members] of [...groups].sort((a, b) => b[1].length - a[1].length)) {
      const group = make("details", { className: "cause" }, make("summary", {}, make("b", {}, members.length), reason));
      group.ontoggle = () => { if (group.open && group.childElementCount === 1) group.append(...members.slice(0, 500).map(line)); };
      order.push(...members);
      view.append(group);
    }
    if (data.parts.length) {
      view.append(make("h2", {}, "Parts that were not run"), make("table", {}, ...data.parts.map(([why, count]) =>
        make("tr", {}, make("td", { className: "number" }, count), make("td", {}, why)))));
    }
    return view.childElementCount ? view : empty("Nothing was skipped.");
  }],
  flaky: ["Retried", () => {
    order = shown.filter(row => row.attempts > 1);
    if (!order.length) return empty("Nothing was retried.");
    const view = document.createDocumentFragment();
    for (const row of order) {
      const tries = detail(row).attempts.map((one, index) => make("li", {}, make("span", { className: "verdict" }, one.verdict || ""), " " + one.headline));
      view.append(line(row), make("ol", {}, ...tries));
    }
    return view;
  }],
  run: ["Run", () => {
    order = [];
    const view = document.createDocumentFragment();
    for (const note of data.notes) view.append(make("p", { className: "other" }, note));
    for (const [title, facts] of data.facts) {
      view.append(make("h2", {}, title), make("table", {}, ...facts.map(([label, value]) => make("tr", {}, make("th", {}, label), make("td", {}, value)))));
    }
    return view;
  }],
};

function empty(text) { return make("p", { className: "empty" }, text); }

function draw() {
  const view = $("view");
  const top = view.scrollTop;
  view.replaceChildren(views[state.tab][1]());
  view.scrollTop = drawn === state.tab ? top : 0;
  drawn = state.tab;
  for (const tab of $("tabs").children) tab.setAttribute("aria-selected", tab.dataset.tab === state.tab);
}
let drawn = null;

// Only the rows that can be seen exist.
function slide() {
  const list = $("list"), view = $("view");
  if (!list) return;
  const from = Math.max(0, Math.floor(view.scrollTop / HEIGHT) - 8);
  const to = Math.min(shown.length, Math.ceil((view.scrollTop + view.clientHeight) / HEIGHT) + 8);
  list.replaceChildren(...shown.slice(from, to).map((row, index) => {
    const element = line(row);
    element.style.top = (from + index) * HEIGHT + "px";
    return element;
  }));
}

let zoom = 1, boxes = [];
const LANE = 22;
function chart() {
  const canvas = $("canvas");
  if (!canvas) return;
  const width = Math.min(30000, Math.max(300, $("chart").clientWidth) * zoom), height = data.lanes.length * LANE + 24;
  const ratio = width > 15000 ? 1 : window.devicePixelRatio || 1;
  canvas.width = width * ratio; canvas.height = height * ratio;
  canvas.style.width = width + "px"; canvas.style.height = height + "px";
  const pen = canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
  const colour = name => style.getPropertyValue("--" + name).trim();
  pen.scale(ratio, ratio);
  pen.font = "11px system-ui, sans-serif";
  const left = 40, scale = (width - left - 8) / Math.max(1, data.elapsed);
  const colours = { pass: colour("pass"), fail: colour("fail"), other: colour("other"), skip: colour("skip") };
  pen.fillStyle = colour("dim");
  data.lanes.forEach((name, index) => pen.fillText(name, 8, index * LANE + 15));
  for (let tick = 0; tick <= 8; tick++) {
    const at = data.elapsed * tick / 8;
    pen.textAlign = tick === 0 ? "left" : tick === 8 ? "right" : "center";
    pen.fillText(time(Math.round(at)), left + at * scale, height - 6);
    pen.fillRect(left + at * scale, height - 20, 1, 4);
  }
  boxes = [];
  for (const row of shown) {
    if (!row.lane) continue;
    const [lane, from, to] = row.lane;
    const box = { x: left + from * scale, y: lane * LANE + 3, w: Math.max(1, (to - from) * scale - (to - from > 4 / scale ? 1 : 0)), h: LANE - 6, row };
    pen.fillStyle = colours[kind(row)];
    pen.globalAlpha = state.open === null || state.open === row.number ? .9 : .55;
    pen.fillRect(box.x, box.y, box.w, box.h);
    boxes.push(box);
  }
  canvas.onmousemove = event => {
    const box = hit(event), tip = $("tip");
    tip.hidden = !box;
    if (!box) return;
    tip.textContent = box.row.id + " · " + word(box.row) + " · " + time(box.row.ms);
    tip.style.left = Math.min(event.clientX + 12, innerWidth - 320) + "px";
    tip.style.top = event.clientY + 16 + "px";
  };
  canvas.onmouseleave = () => { $("tip").hidden = true; };
  canvas.onclick = event => { const box = hit(event); if (box) open(box.row.number); };
}
function hit(event) {
  let best = null;
  for (const box of boxes) {
    if (event.offsetY < box.y || event.offsetY > box.y + box.h) continue;
    const away = Math.max(box.x - event.offsetX, event.offsetX - box.x - box.w, 0);
    if (away <= 3 && (!best || away < best.away)) best = { away, ...box };
  }
  return best;
}

function detail(row) {
  const block = $("d" + row.number);
  return block ? JSON.parse(block.textContent) : { rerun: "", note: null, metrics: [], steps: [], attempts: [], output: [] };
}

function coloured(kind, text) {
  const pre = make("pre");
  if (kind === "text") { pre.textContent = text; return pre; }
  const name = text => kind === "diff" ? { "+": "add", "-": "del", "@": "at" }[text[0]] || "line" : text.startsWith("->") ? "out" : text.startsWith("<-") ? "in" : "line";
  pre.append(...text.split("\n").map(text => make("span", { className: name(text) }, text || " ")));
  return pre;
}

function section([title, kind, text]) {
  const part = make("details", { open: true }, make("summary", {}, title));
  part.append(coloured(kind, text));
  return part;
}

function copier(label, text) {
  const button = make("button", {}, label);
  button.onclick = async () => {
    try { await navigator.clipboard.writeText(text); button.textContent = "Copied"; }
    catch (_) { const area = make("textarea", { value: text }); button.after(area); area.select(); document.execCommand("copy"); area.remove(); button.textContent = "Copied"; }
    setTimeout(() => { button.textContent = label; }, 1500);
  };
  return button;
}

function open(number, keep) {
  const panel = $("detail"), row = rows[number];
  state.open = row ? number : null;
  panel.hidden = !row;
  for (const element of document.querySelectorAll(".row")) element.setAttribute("aria-current", +element.dataset.row === state.open);
  if (!row) { if (!keep) history.replaceState(null, "", "#"); $("view").focus(); slide(); return; }
  if (!keep) history.replaceState(null, "", "#" + encodeURIComponent(row.id));
  const all = detail(row);
  const upstream = row.upstream ? make("p", { className: "dim" }, "upstream: " + row.upstream) : null;
  const parts = [
    make("div", { className: "bar" }, make("span", { className: "verdict " + kind(row) }, word(row)), make("span", { className: "dim" }, row.ms ? time(row.ms) : "")),
    make("h2", { className: "id" }, row.id), make("p", {}, row.description),
    make("p", { className: "dim" }, row.place + ", set " + data.sets[row.set]), upstream,
    make("div", { className: "bar" }, all.rerun ? copier("Copy the rerun command", all.rerun) : null, copier("Copy the id", row.id),
      make("button", { id: "close", onclick: () => open(null) }, "Close (Esc)")),
    all.rerun ? make("pre", { className: "rerun" }, all.rerun) : null,
    row.why ? make("p", { className: isFailure(row) ? "fail" : "dim" }, row.why) : null,
    all.note && all.note !== row.why ? make("p", { className: "other" }, all.note) : null,
  ];
  all.attempts.forEach((one, index) => {
    parts.push(make("h3", {}, all.attempts.length > 1 || row.attempts > 1 ? "Attempt " + (index + 1) + ": " : "", one.verdict + ", " + time(one.millis)));
    if (one.headline && one.headline !== row.why) parts.push(make("p", {}, one.headline));
    parts.push(...one.sections.map(section));
    if (one.kept) {
      const files = make("ul", {}, ...one.files.map(([name, href, size]) => make("li", {}, make("a", { href }, name), make("span", { className: "dim" }, "  " + size))));
      parts.push(make("h3", {}, "Kept files"), make("p", {}, make("a", { href: one.kept[1] }, one.kept[0])), files);
    }
  });
  if (all.steps.length) {
    parts.push(make("h3", {}, "Steps"), make("ol", { className: "steps" }, ...all.steps.map(([text, place, after, log]) => make("li", {},
      text || "before the first step", make("span", { className: "dim" }, " " + time(after) + (place ? " · " + place : "")), log ? make("pre", {}, log) : null))));
  }
  parts.push(...all.output.map(section));
  if (all.metrics.length) parts.push(make("h3", {}, "Measured"), make("pre", {}, all.metrics.join("\n")));
  panel.replaceChildren(...parts.filter(Boolean));
  panel.scrollTop = 0;
  slide();
}

function move(step) {
  if (!order.length) return;
  const at = order.findIndex(row => row.number === state.open);
  const next = order[Math.min(order.length - 1, Math.max(0, at < 0 ? 0 : at + step))];
  if (state.tab === "instances") {
    const view = $("view"), top = order.indexOf(next) * HEIGHT;
    if (top < view.scrollTop) view.scrollTop = top;
    if (top + HEIGHT > view.scrollTop + view.clientHeight) view.scrollTop = top + HEIGHT - view.clientHeight;
  }
  open(next.number);
  const element = document.querySelector(`.row[data-row="${next.number}"]`);
  if (element) element.scrollIntoView({ block: "nearest" });
}

function go(tab) { state.tab = tab; draw(); }

function theme(next) {
  document.documentElement.dataset.theme = next;
  try { localStorage.setItem("iotests-theme", next); } catch (_) { /* A page from a file may have none. */ }
  if (state.tab === "timeline") chart();
}

function clear() {
  state.q = state.format = state.set = state.group = "";
  state.verdicts.clear();
  for (const id of ["q", "format", "set", "group"]) $(id).value = "";
  for (const chip of $("chips").children) chip.setAttribute("aria-pressed", false);
  choose();
}

const KEYS = [["/", "search"], ["j, k", "next, previous"], ["Esc", "close; leave the search"], ["1 … 7", "views"], ["c", "copy the rerun command"],
  ["x", "clear the filters"], ["t", "light or dark"], ["?", "this"]];

function key(event) {
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName);
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") { if (typing) document.activeElement.blur(); else if (!$("keys").open && state.open !== null) open(null); return; }
  if (typing) return;
  const names = Object.keys(views);
  const act = { "/": () => $("q").focus(), j: () => move(1), ArrowDown: () => move(1), k: () => move(-1), ArrowUp: () => move(-1), x: clear,
    t: () => $("theme").click(), "?": () => $("keys").showModal(), c: () => { const button = document.querySelector("#detail .bar button"); if (button) button.click(); } }[event.key]
    || (names[+event.key - 1] && (() => go(names[+event.key - 1])));
  if (act) { event.preventDefault(); act(); }
}

// The page as it is at first.
let chosen = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
try { chosen = localStorage.getItem("iotests-theme") || chosen; } catch (_) { /* As above. */ }
theme(chosen);
document.title = "iotests: " + data.counts;
$("title").textContent = data.counts;
$("title").className = data.causes.length ? "fail" : "";
if (data.begun) $("when").textContent = new Date(data.begun * 1000).toLocaleString();
const tabs = { failures: data.rows.filter(row => data.verdicts[row[2]][2] === "fail").length, instances: rows.length,
  skips: rows.filter(row => word(row) === "skip").length, flaky: rows.filter(row => row.attempts > 1).length };
for (const [name, [title]] of Object.entries(views)) {
  const button = make("button", { role: "tab", onclick: () => go(name) }, title + (tabs[name] ? " " + tabs[name] : ""));
  button.dataset.tab = name;
  $("tabs").append(button);
}
data.verdicts.forEach(([word, , kind], verdict) => {
  if (!counted.has(verdict)) return;
  const chip = make("button", { className: "chip " + kind }, counted.get(verdict) + " " + data.verdicts[verdict][1]);
  chip.dataset.verdict = word;
  chip.setAttribute("aria-pressed", false);
  chip.onclick = () => {
    if (!state.verdicts.delete(verdict)) state.verdicts.add(verdict);
    chip.setAttribute("aria-pressed", state.verdicts.has(verdict));
    if (state.tab === "run") state.tab = "instances";
    choose();
  };
  $("chips").append(chip, " ");
});
function options(id, all, names) {
  $(id).append(make("option", { value: "" }, all), ...names.map(([value, name]) => make("option", { value }, name)));
  $(id).hidden = names.length < 2;
  $(id).onchange = () => { state[id] = $(id).value; choose(); };
}
options("format", "All formats", data.formats.map((name, index) => [index, name]));
options("set", "All sets", data.sets.map((name, index) => [index, name || "none"]));
options("group", "All groups", [...new Set(data.cases.flatMap(one => one[4]))].sort().map(name => [name, name]));
$("q").oninput = () => { state.q = $("q").value; choose(); };
$("clear").onclick = clear;
$("theme").onclick = () => theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
$("keys").append(make("table", {}, ...KEYS.map(([keys, what]) => make("tr", {}, make("td", {}, make("kbd", {}, keys)), make("td", {}, what)))),
  make("form", { method: "dialog" }, make("button", {}, "Close")));
$("help").onclick = () => $("keys").showModal();
$("view").addEventListener("scroll", slide, { passive: true });
$("view").addEventListener("click", event => { const element = event.target.closest(".row"); if (element) open(+element.dataset.row); });
addEventListener("keydown", key);
addEventListener("resize", () => { slide(); if (state.tab === "timeline") chart(); });
state.tab = data.causes.length ? "failures" : "instances";
choose();
const wanted = decodeURIComponent(location.hash.slice(1));
const found = wanted && rows.find(row => row.id === wanted);
if (found) open(found.number, true);
