"use strict";

// The number of answers of /status that a line shows, and the number of backends that are shown at once.
const HISTORY = 120;
const ROWS = 100;

const at = id => document.getElementById(id);
const count = number => Math.round(number).toLocaleString("en");
const ago = seconds => seconds == null ? "never" :
  seconds < 60 ? `${seconds.toFixed(1)} s ago` : seconds < 7200 ? `${Math.round(seconds / 60)} min ago` : `${Math.round(seconds / 3600)} h ago`;
const percent = share => `${(100 * share).toFixed(share && share < .0995 ? 1 : 0)} %`;

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

// A line of rates, the newest on the right.
const spark = rates => {
  const most = Math.max(...rates, 1);
  const points = rates.map((rate, step) => `${HISTORY - rates.length + step},${(20 - 18 * rate / most).toFixed(1)}`);
  const svg = draw("svg", {class: "spark", viewBox: `0 0 ${HISTORY - 1} 21`, preserveAspectRatio: "none", role: "img",
    "aria-label": `up to ${count(most)} packets per second recently`});
  svg.append(draw("polyline", {points: points.join(" ")}));
  return svg;
};

// The share of new connections that a backend should get, behind the share that it has got.
const shares = (wanted, found) => {
  const box = put("span");
  const svg = draw("svg", {class: "share", viewBox: "0 0 100 12", preserveAspectRatio: "none", "aria-hidden": "true"});
  svg.append(draw("rect", {class: "wanted", width: 100 * wanted, height: 12}),
    draw("rect", {class: "found", y: 4, width: 100 * found, height: 4}));
  box.append(svg, put("small", `${percent(wanted)} now, ${percent(found)} since the start`));
  return box;
};

const two = (text, below, kind) => {
  const box = put("span", text, kind);
  if (below) box.append(put("small", below));
  return box;
};

// columns: names; a name that begins with # is a column of numbers. rows: lists of nodes or texts.
const table = (id, columns, rows) => {
  const names = columns.map(name => name.replace("#", ""));
  const kinds = columns.map(name => name.startsWith("#") ? "number" : "");
  const head = put("thead"), body = put("tbody"), line = head.appendChild(put("tr"));
  names.forEach((name, column) => line.appendChild(put("th", name, kinds[column])).setAttribute("scope", "col"));
  for (const row of rows) {
    const line = body.appendChild(put("tr"));
    row.forEach((content, column) => {
      const cell = line.appendChild(put("td", "", kinds[column]));
      cell.dataset.name = names[column];
      cell.append(content instanceof Node ? content : put("span", String(content)));
    });
  }
  replace(id, [head, body]);
};

let before = null, rates = new Map(), failed = null;

const perSecond = (now, then, seconds) => then === undefined || seconds <= 0 ? 0 : Math.max(0, (now - then) / seconds);

const stateOf = backend => backend.excluded ? ["excluded", "bad"] : backend.drained ? ["drained", "good"] : backend.state === "draining" ? ["draining", "warn"] : [backend.state, ""];

const trouble = backend => (backend.finding || backend.excluded ? 4 : 0) + (backend.healthy ? 0 : 2) + (backend.state === "draining" ? 1 : 0);

const KINDS = {error: "bad", warning: "warn", info: "good"};

const showNotices = status =>
  replace("notices", (status.notices || []).map(notice => put("li", notice.text, KINDS[notice.level] || "warn")));

const showTiles = (status, seconds) => {
  const drops = Object.entries(status.outcomes).filter(([name]) => name.startsWith("drop_"));
  const dropped = drops.reduce((sum, [, packets]) => sum + packets, 0);
  const up = status.backends.filter(backend => backend.healthy).length;
  const tile = (name, value, kind) => {
    const box = put("div");
    box.append(put("dt", name), put("dd", value, kind));
    return box;
  };
  const then = before || status;
  const lost = before ? perSecond(dropped, before.dropped, seconds) : 0;
  replace("tiles", [
    tile("packets per second", count(perSecond(status.received_packets, then.received_packets, seconds))),
    tile("Mbit/s in", (perSecond(status.received_bytes, then.received_bytes, seconds) * 8e-6).toFixed(2)),
    tile("dropped per second", count(lost), lost ? "bad" : ""),
    tile("backends up", `${count(up)} of ${count(status.backends.length)}`, up < status.backends.length ? "bad" : "good"),
    tile("sessions", count(status.sessions)),
    tile("worker restarts", count(status.worker_restarts), status.worker_restarts ? "warn" : "")]);
  status.dropped = dropped;
};

const showBackends = status => {
  const wanted = at("filter").value.trim().toLowerCase();
  const kept = status.backends.filter(backend => !wanted || `${backend.name} ${backend.address} ${stateOf(backend)[0]}`.toLowerCase().includes(wanted));
  if (status.backends.length > ROWS) kept.sort((a, b) => trouble(b) - trouble(a) || b.packets_per_second - a.packets_per_second);
  at("filter-line").hidden = status.backends.length <= 10;
  at("filtered").textContent = `${count(Math.min(kept.length, ROWS))} of ${count(status.backends.length)} shown` +
    (kept.length > ROWS ? ", those with problems first" : "");
  const routes = backend => backend.forwarded_by_route || {};
  const fallback = status.backends.reduce((sum, backend) => sum + (routes(backend).fallback || 0), 0);
  table("backends", ["name", "state", "health", "#per second", "lately", "#packets", "last packet", "new connections"],
    kept.slice(0, ROWS).map(backend => {
      const route = routes(backend);
      const by = `${count(route.cid || 0)} by ID, ${count(route.flow || 0)} by flow, ${count(route.fallback || 0)} by fallback`;
      return [two(backend.name, backend.address), put("span", ...stateOf(backend)),
        two(backend.healthy ? "up" : "down", backend.finding || backend.detail, backend.healthy ? "good" : "bad"),
        count(backend.packets_per_second || 0), spark(rates.get(backend.name) || [0]), two(count(backend.forwarded_packets), by),
        ago(backend.last_seen_s), shares(backend.fallback_share || 0, fallback ? (route.fallback || 0) / fallback : 0)];
    }));
};

const show = status => {
  const seconds = before ? status.uptime_s - before.uptime_s : 0;
  // Another process counts from zero.
  if (seconds < 0) before = null;
  replace("state", [put("span", status.ready ? "ready" : "not ready", status.ready ? "good" : "bad")]);
  at("what").textContent = `${status.version} \u00b7 ${status.plane} plane \u00b7 ${status.mode} mode \u00b7 ` +
    `generation ${status.config.generation} \u00b7 up ${count(status.uptime_s)} s \u00b7 ${status.listen.join(", ")}`;
  const present = new Map();
  for (const backend of status.backends)
    present.set(backend.name, [...(rates.get(backend.name) || []), backend.packets_per_second || 0].slice(-HISTORY));
  rates = present;
  showNotices(status);
  showTiles(status, seconds);
  showBackends(status);
  table("configs", ["config ID", "state", "algorithm", "fingerprint", "#per second", "#packets", "last packet"],
    status.cid_configs.map(config => [config.config_id, put("span", config.state || "", config.state === "active" ? "good" : "warn"),
      config.algorithm, config.fingerprint || "", count(config.packets_per_second || 0), count(config.packets), ago(config.last_seen_s)]));
  table("outcomes", ["outcome", "#packets", "#per second"], Object.entries(status.outcomes).filter(([, packets]) => packets)
    .map(([name, packets]) => [put("span", name, name.startsWith("drop_") ? "bad" : ""), count(packets),
      count(before ? perSecond(packets, before.outcomes[name], seconds) : 0)]));
  table("totals", ["counter", "#value", "#per second"], (status.totals || []).filter(row => row.value)
    .map(row => [two(row.name, row.text), count(row.value),
      row.kind === "counter" ? count(before ? perSecond(row.value, before[row.name], seconds) : 0) : ""]));
  table("listeners", ["address", "#dropped by the system", "#receive buffer"], (status.listeners || []).map(row => [row.listen,
    row.kernel_dropped_packets == null ? "not known" : put("span", count(row.kernel_dropped_packets), row.kernel_dropped_packets ? "bad" : ""),
    `${count(row.receive_buffer_bytes / 1024)} KiB`]));
  table("workers", ["worker", "#process", "state"], status.workers.map(worker =>
    [worker.index, worker.pid, worker.alive ? put("span", "alive", "good") : put("span", "dead", "bad")]));
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
    replace("state", [put("span", `no answer since ${failed.toLocaleTimeString("en-GB")}`, "bad")]);
  }
  // The answer is long with thousands of backends: never spend more than a tenth of the time on it.
  setTimeout(refresh, Math.max(1000, 10 * (performance.now() - began)));
};
at("filter").addEventListener("input", () => before && showBackends(before));
refresh();
