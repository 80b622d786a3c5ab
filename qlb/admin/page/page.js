"use strict";

// Lines show the last two minutes. So many backends are shown at first, and so many more on request.
const WINDOW_S = 120, ROWS = 20, MORE = 100;
// Below this number of connections a share is chance, and not shown. Above this number of notices, the rest is folded.
const SAMPLE = 20, NOTICES = 4;

const at = id => document.getElementById(id);
const count = number => Math.round(number).toLocaleString("en");
const plural = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
const rate = number => number && number < 10 ? number.toFixed(1) : count(number);
const duration = seconds => seconds < 120 ? `${Math.round(seconds)} s` : seconds < 7200 ? `${Math.round(seconds / 60)} min` :
  seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} days`;
const ago = seconds => seconds == null ? "never" : seconds < 10 ? `${seconds.toFixed(1)} s ago` : `${duration(seconds)} ago`;
const percent = share => `${(100 * share).toFixed(share && share < .0995 ? 1 : 0)} %`;
const bits = bytes => {
  const power = Math.min(3, Math.max(0, Math.floor(Math.log10(bytes * 8 || 1) / 3)));
  return `${rate(bytes * 8 / 1000 ** power)} ${["bit/s", "kbit/s", "Mbit/s", "Gbit/s"][power]}`;
};

// Text is always inserted as text, never as markup.
const put = (tag, text = "", kind = "") => {
  const node = document.createElement(tag);
  node.textContent = text;
  if (kind) node.className = kind;
  return node;
};
const draw = (tag, attributes) => {
  const node = document.createElementNS(at("drawing").namespaceURI, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
};
const replace = (id, nodes) => at(id).replaceChildren(...nodes);
// A part of the page that has not changed is left alone: a tooltip stays open, a selection and the focus stay.
const seen = new WeakMap();
const changed = (node, mark) => seen.get(node) !== mark && seen.set(node, mark);
const write = (node, text) => { if (changed(node, text)) node.textContent = text; };

// The project's documentation, if this installation knows its address. Its pages are opened only on request.
const base = document.documentElement.dataset.docs;
const documentation = page => base && /^[\w\/-]+\.md(#[\w-]+)?$/.test(page || "") ?
  base + (base.includes("/blob/") || base.includes("/tree/") ? page : page.replace(".md", ".html")) : "";
const link = (text, url) => {
  const node = put("a", text);
  node.href = url;
  node.rel = "noreferrer";
  return node;
};
for (const node of document.querySelectorAll("[data-doc]"))
  if (documentation(node.dataset.doc)) {
    node.href = documentation(node.dataset.doc);
    node.rel = "noreferrer";
  }

// A line of rates, the newest on the right, above a line for zero. points: of [seconds, rate].
const spark = (points, now) => {
  const most = Math.max(...points.map(([, found]) => found), 0);
  const svg = draw("svg", {class: "spark", viewBox: `0 0 ${WINDOW_S} 20`, preserveAspectRatio: "none", role: "img",
    "aria-label": `at most ${rate(most)} packets per second in the last 2 minutes`});
  svg.append(draw("line", {x1: 0, y1: 19.5, x2: WINDOW_S, y2: 19.5}));
  if (most) {
    const drawn = points.map(([time, found]) => `${(WINDOW_S - now + time).toFixed(1)},${(19 - 18 * found / most).toFixed(1)}`);
    svg.append(draw("polyline", {points: drawn.join(" ")}));
  }
  return [svg, put("small", most ? `max ${rate(most)}/s` : "idle")];
};

// The share of new connections that a backend should get, behind the share that it has got. most: the longest bar.
const shares = (wanted, got, all, most) => {
  const svg = draw("svg", {class: "share", viewBox: "0 0 100 12", preserveAspectRatio: "none", "aria-hidden": "true"});
  svg.append(draw("rect", {class: "wanted", width: 100 * wanted / most, height: 12}));
  if (all >= SAMPLE) svg.append(draw("rect", {class: "found", y: 4, width: 100 * got / all / most, height: 4}));
  return [svg, put("small", `${percent(wanted)} wanted, ${all >= SAMPLE ? percent(got / all) : count(got)} so far`)];
};

// columns: {name, kind, number}. rows: {kind, title, cells}. A cell has text, kind, below, or a mark and nodes().
const head = (id, columns) => {
  const line = put("tr");
  for (const column of columns) {
    const title = line.appendChild(put("th", column.sort ? "" : column.name, `${column.kind || ""} ${column.number ? "number" : ""}`.trim()));
    title.setAttribute("scope", "col");
    if (column.sort) title.appendChild(put("button", column.name)).addEventListener("click", () => sortBy(column));
  }
  const top = put("thead");
  top.append(line);
  replace(id, [top, put("tbody")]);
};
const fill = (id, columns, rows) => {
  const body = at(id).tBodies[0];
  while (body.rows.length > rows.length) body.deleteRow(-1);
  rows.forEach((row, number) => {
    const line = body.rows[number] || body.insertRow();
    if (line.className !== (row.kind || "")) line.className = row.kind || "";
    if (line.title !== (row.title || "")) line.title = row.title || "";
    columns.forEach((column, place) => {
      const cell = row.cells[place], td = line.cells[place] || line.insertCell();
      const kind = `${column.kind || ""} ${column.number ? "number" : ""}`.trim();
      if (td.className !== kind) td.className = kind;
      td.dataset.name = column.name;
      const {text = cell, below = "", kind: colour = ""} = cell ?? {};
      if (td.title !== (cell?.title || "")) td.title = cell?.title || "";
      if (!changed(td, cell?.mark ?? `${text}\n${below}\n${colour}`)) return;
      td.replaceChildren(...(cell?.nodes ? cell.nodes() : [put("span", String(text), colour), ...(below ? [put("small", below)] : [])]));
    });
  });
};

let before = null, failed = null, wide = ROWS, order = {column: null, down: false}, lines = new Map();

const perSecond = (now, then, seconds) => then === undefined || seconds <= 0 ? 0 : Math.max(0, (now - then) / seconds);
const STATES = {excluded: "bad", draining: "warn", drained: "quiet", staged: "warn", retiring: "warn"};
const stateOf = backend => backend.excluded ? "excluded" : backend.drained ? "drained" : backend.state;
const trouble = backend => (backend.finding || backend.excluded ? 4 : 0) + (backend.healthy ? 0 : 2) + (backend.state === "draining" ? 1 : 0);
const words = backend => [...new Set([backend.excluded, backend.healthy ? "" : backend.detail, backend.finding])].filter(Boolean).join("; ");
const routes = backend => backend.forwarded_by_route || {};
const begun = backend => backend.new_flows ?? routes(backend).fallback ?? 0;

const BACKENDS = [
  {name: "backend", kind: "name", sort: backend => backend.name},
  {name: "state", kind: "state", sort: stateOf},
  {name: "health", kind: "words", sort: backend => trouble(backend), down: true},
  {name: "packets/s", kind: "rate", number: true, sort: backend => backend.packets_per_second || 0, down: true},
  {name: "last 2 min", kind: "spark-cell"},
  {name: "packets", kind: "packets", number: true, sort: backend => backend.forwarded_packets, down: true},
  {name: "last packet", kind: "last", sort: backend => backend.last_seen_s ?? Infinity},
  {name: "new connections", kind: "shares", sort: begun, down: true}];
const CONFIGS = [{name: "config ID"}, {name: "state"}, {name: "algorithm"}, {name: "fingerprint"}, {name: "packets/s", number: true},
  {name: "packets", number: true}, {name: "last packet"}];
const OUTCOMES = [{name: "outcome"}, {name: "packets", number: true}, {name: "per second", number: true}];
const LISTENERS = [{name: "address"}, {name: "dropped by the system", number: true}, {name: "receive buffer", number: true}];
const WORKERS = [{name: "worker"}, {name: "process", number: true}, {name: "state"}, {name: "busy", number: true}, {name: "memory", number: true}];
const TOTALS = [{name: "counter"}, {name: "value", number: true}, {name: "per second", number: true}];

// The first choice of a column sorts by it, the second turns the order round, the third ends it.
const sortBy = column => {
  const first = Boolean(column?.down);
  order = !column || (order.column === column && order.down !== first) ? {column: null, down: false} :
    {column, down: order.column === column ? !first : first};
  at("order").value = order.column ? order.column.name : "";
  BACKENDS.forEach((one, place) => {
    const title = at("backends").tHead.rows[0].cells[place];
    if (one === order.column) title.setAttribute("aria-sort", order.down ? "descending" : "ascending");
    else title.removeAttribute("aria-sort");
  });
  if (before) showBackends(before);
};
const collator = new Intl.Collator("en", {numeric: true});
const compare = (a, b) => typeof a === "string" ? collator.compare(a, b) : a === b ? 0 : a < b ? -1 : 1;
const sorted = backends => order.column ?
  backends.toSorted((a, b) => (order.down ? -1 : 1) * compare(order.column.sort(a), order.column.sort(b))) :
  backends.toSorted((a, b) => trouble(b) - trouble(a));

const SEVERITIES = {critical: "bad", error: "bad", warning: "warn", info: "quiet"};
const notice = ({severity, level, text, see}) => {
  const item = put("li", "", SEVERITIES[severity || level] || "warn"), url = documentation(see);
  item.append(put("strong", severity || level), put("span", text), ...(url ? [" ", link("what to do", url)] : []));
  return item;
};
const showNotices = notices => {
  if (!changed(at("notices"), JSON.stringify(notices))) return;
  const first = Math.max(NOTICES, notices.filter(one => (one.severity || one.level) === "critical").length);
  const shown = notices.length === first + 1 ? first + 1 : first;
  replace("notices", notices.slice(0, shown).map(notice));
  replace("rest-notices", notices.slice(shown).map(notice));
  at("rest").hidden = notices.length <= shown;
  at("rest-count").textContent = `${plural(notices.length - shown, "more notice")}`;
};

const showTiles = (status, seconds, now) => {
  const then = before || status, dropped = status.dropped;
  const since = name => perSecond(status[name], then[name], seconds);
  const up = status.backends.filter(backend => backend.healthy).length, all = status.backends.length;
  const tiles = [
    ["packets/s in", rate(since("received_packets"))], ["in", bits(since("received_bytes"))],
    ...(status.bytes_returned === undefined ? [] : [["out", bits(since("bytes_returned"))]]),
    ...(status.new_flows === undefined ? [] : [["new connections/s", rate(since("new_flows"))]]),
    ["dropped/s", rate(since("dropped")), since("dropped") ? "bad" : "", dropped ? `${count(dropped)} since the start` : ""],
    ["backends up", `${count(up)} of ${count(all)}`, up < all || !all ? "bad" : "good"],
    ["sessions", count(status.sessions), "", status.sessions_max ? `of ${count(status.sessions_max)}` : ""],
    ["worker restarts", count(status.worker_restarts), status.worker_restarts ? "warn" : ""]];
  const box = at("tiles");
  while (box.children.length > tiles.length) box.lastChild.remove();
  tiles.forEach(([name, value, kind = "", below = ""], place) => {
    const tile = box.children[place] || box.appendChild(put("div"));
    if (!changed(tile, [name, value, kind, below].join("\n"))) return;
    const shown = put("dd", value, kind);
    if (below) shown.append(put("small", below));
    tile.replaceChildren(put("dt", name), shown);
  });
};

const showBackends = status => {
  const now = status.uptime_s, wanted = at("filter").value.trim().toLowerCase();
  const text = backend => `${backend.name} ${backend.address} ${stateOf(backend)} ${backend.healthy ? "up" : "down"} ${words(backend)}`;
  const found = sorted(status.backends.filter(backend => !wanted || text(backend).toLowerCase().includes(wanted)));
  const shown = found.slice(0, wide), rest = found.length - shown.length;
  at("controls").hidden = status.backends.length <= 10;
  write(at("filtered"), `${count(shown.length)} of ${count(status.backends.length)} shown` + (rest && !order.column ? ", those with problems first" : ""));
  at("more").hidden = !rest;
  write(at("more"), `Show ${count(Math.min(rest, MORE))} more`);
  const all = status.backends.reduce((sum, backend) => sum + begun(backend), 0);
  const most = Math.max(...shown.map(backend => Math.max(backend.fallback_share || 0, all >= SAMPLE ? begun(backend) / all : 0)), .001);
  write(at("sample"), all >= SAMPLE ? `shares of ${count(all)} new connections` : `${plural(all, "new connection")}: too few for shares`);
  fill("backends", BACKENDS, shown.map(backend => {
    const route = routes(backend), points = lines.get(backend.name) || [], wrong = words(backend), share = backend.fallback_share || 0;
    const by = `${count(route.cid || 0)} by ID, ${count(route.flow || 0)} by flow, ${count(route.fallback || 0)} by fallback`;
    return {title: wrong ? "" : backend.detail, cells: [
      {text: backend.name, below: backend.address}, {text: stateOf(backend), kind: STATES[stateOf(backend)]},
      {text: backend.healthy ? "up" : "down", kind: backend.healthy ? "good" : "bad", below: wrong},
      rate(backend.packets_per_second || 0), {mark: `${now} ${backend.name}`, nodes: () => spark(points, now)},
      {text: count(backend.forwarded_packets), below: `${count(route.cid || 0)} by ID`, title: by}, ago(backend.last_seen_s),
      {mark: `${share} ${begun(backend)} ${all} ${most}`, nodes: () => shares(share, begun(backend), all, most)}]};
  }));
};

const showOutcomes = (status, seconds) => {
  const then = before ? before.outcomes : {}, all = status.received_packets;
  const since = names => count(before ? names.reduce((sum, name) => sum + perSecond(status.outcomes[name], then[name], seconds), 0) : 0);
  const explained = one => ({mark: one.name, nodes: () => {
    const box = put("details");
    box.append(put("summary", one.name), put("small", one.text));
    return [box];
  }});
  fill("outcomes", OUTCOMES, (status.outcome_groups || []).filter(group => group.packets).flatMap(group => [
    {kind: "group", title: group.text, cells: [{text: group.name, below: group.text, kind: group.name === "dropped" ? "bad" : ""},
      {text: count(group.packets), below: all >= SAMPLE ? percent(Math.min(1, group.packets / all)) : ""}, since(group.outcomes.map(one => one.name))]},
    ...group.outcomes.map(one => ({kind: "member", title: one.text, cells: [explained(one), count(one.packets), since([one.name])]}))]));
};

const showBalancers = balancers => {
  if (!changed(at("balancers"), balancers.join())) return;
  const urls = balancers.filter(one => URL.canParse(one)).map(one => new URL(one)).filter(url => url.protocol === "http:" && url.host !== location.host);
  replace("balancers", urls.flatMap((url, place) => [place ? ", " : "· other balancers: ", link(url.host, url.href)]));
};

const show = status => {
  const seconds = before ? status.uptime_s - before.uptime_s : 0, now = status.uptime_s;
  // Another process counts from zero, and its lines begin again.
  if (seconds < 0) [before, lines] = [null, new Map()];
  status.dropped = Object.entries(status.outcomes).reduce((sum, [name, packets]) => sum + (name.startsWith("drop_") ? packets : 0), 0);
  if (changed(at("state"), status.ready)) replace("state", [put("span", status.ready ? "ready" : "not ready", status.ready ? "good" : "bad")]);
  write(at("what"), `${status.version} \u00b7 ${status.plane} plane \u00b7 ${status.mode} mode \u00b7 ` +
    `generation ${status.config.generation} \u00b7 up ${duration(now)} \u00b7 ${status.listen.join(", ")}`);
  lines = new Map(status.backends.map(backend => [backend.name,
    [...(lines.get(backend.name) || []).filter(([time]) => now - time < WINDOW_S), [now, backend.packets_per_second || 0]]]));
  showNotices(status.notices || []);
  showTiles(status, seconds, now);
  showBackends(status);
  fill("configs", CONFIGS, status.cid_configs.map(config => ({cells: [config.config_id, {text: config.state || "", kind: STATES[config.state]},
    config.algorithm, config.fingerprint || "", rate(config.packets_per_second || 0), count(config.packets), ago(config.last_seen_s)]})));
  showOutcomes(status, seconds);
  fill("totals", TOTALS, (status.totals || []).filter(row => row.value).map(row => ({cells: [{text: row.name, below: row.text}, count(row.value),
    row.kind === "counter" ? count(before ? perSecond(row.value, before[row.name], seconds) : 0) : ""]})));
  fill("listeners", LISTENERS, (status.listeners || []).map(row => ({cells: [row.listen,
    row.kernel_dropped_packets == null ? "not known" : {text: count(row.kernel_dropped_packets), kind: row.kernel_dropped_packets ? "bad" : ""},
    `${count(row.receive_buffer_bytes / 1024)} KiB`]})));
  fill("workers", WORKERS, status.workers.map(worker => ({cells: [worker.index, worker.pid,
    {text: worker.alive ? "alive" : "dead", kind: worker.alive ? "good" : "bad"},
    worker.busy_share == null ? "" : {text: percent(worker.busy_share), kind: worker.busy_share > .9 ? "warn" : ""},
    worker.resident_bytes ? `${count(worker.resident_bytes / 2 ** 20)} MiB` : ""]})));
  showBalancers(status.balancers || []);
  before = status;
};

const refresh = async () => {
  const began = performance.now();
  try {
    if (!document.hidden) {
      const answer = await fetch("/status", {cache: "no-store", signal: AbortSignal.timeout(5000)});
      if (!answer.ok) throw new Error(answer.statusText);
      show(await answer.json());
      failed = null;
    }
  } catch {
    failed = failed || new Date();
    const text = `no answer since ${failed.toLocaleTimeString("en-GB")}`;
    if (changed(at("state"), text)) replace("state", [put("span", text, "bad")]);
  }
  // The answer is long with thousands of backends: never spend more than a tenth of the time on it.
  setTimeout(refresh, Math.max(1000, 10 * (performance.now() - began)));
};

for (const [id, columns] of Object.entries({backends: BACKENDS, configs: CONFIGS, outcomes: OUTCOMES, listeners: LISTENERS, workers: WORKERS, totals: TOTALS}))
  head(id, columns);
for (const [value, text] of [["", "problems first"], ...BACKENDS.filter(one => one.sort).map(one => [one.name, one.name])])
  at("order").appendChild(put("option", text)).value = value;
at("order").addEventListener("change", event => {
  order = {column: null, down: false};
  sortBy(BACKENDS.find(one => one.name === event.target.value));
});
at("filter").addEventListener("input", () => before && showBackends(before));
at("more").addEventListener("click", () => {
  wide += MORE;
  showBackends(before);
});
refresh();
