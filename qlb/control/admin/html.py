"""The page at ``/``: the status, every second, for people.

One self-contained document. It takes text from ``/status`` and sets it as text, never as markup, and its policy
lets it load nothing and run nothing but what stands here.
"""

import base64
import hashlib
from typing import Final

_STYLE: Final = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif;
  --line: color-mix(in srgb, currentColor 20%, transparent); --good: light-dark(#17692f, #6fd08c);
  --bad: light-dark(#b3261e, #ff8a80); }
body { margin: 0 auto; max-width: 70rem; padding: 1rem; }
h1 { font-size: 1.4rem; margin: 0; } h2 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
header { display: flex; gap: 1rem; align-items: baseline; flex-wrap: wrap; }
.good { color: var(--good); } .bad { color: var(--bad); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); }
td { overflow-wrap: anywhere; }
th { font-weight: 600; } small { opacity: .75; } a { color: inherit; }
@media (max-width: 45rem) {
  thead { display: none; } tr { display: block; padding: .4rem 0; border-bottom: 1px solid var(--line); }
  td { display: flex; justify-content: space-between; gap: 1rem; border: 0; padding: .1rem 0; text-align: right; }
  td::before { content: attr(data-name); opacity: .75; text-align: left; }
}
"""

_SCRIPT: Final = """
"use strict";
const at = id => document.getElementById(id);
const put = (tag, text, kind) => {
  const node = document.createElement(tag);
  node.textContent = text;
  if (kind) node.className = kind;
  return node;
};
const count = number => Number(number).toLocaleString("en");
const ago = seconds => seconds === null ? "never" : seconds.toFixed(1) + " s ago";

// rows: arrays of [text, kind]; replaces the table with this id.
const table = (id, columns, rows) => {
  const head = document.createElement("thead"), body = document.createElement("tbody");
  const names = head.appendChild(document.createElement("tr"));
  columns.forEach(name => names.appendChild(put("th", name)));
  for (const row of rows) {
    const line = body.appendChild(document.createElement("tr"));
    row.forEach(([text, kind], column) => {
      const cell = line.appendChild(document.createElement("td"));
      cell.dataset.name = columns[column];
      cell.appendChild(put("span", text, kind));
    });
  }
  at(id).replaceChildren(head, body);
};

let before = null;
const perSecond = (backend, status) => {
  const old = before && before.backends.find(other => other.name === backend.name);
  const seconds = before ? status.uptime_s - before.uptime_s : 0;
  return old && seconds > 0 ? count(Math.max(0, Math.round(
    (backend.forwarded_packets - old.forwarded_packets) / seconds))) : "\\u2013";
};

const show = status => {
  at("state").replaceChildren(put("span", status.ready ? "ready" : "not ready", status.ready ? "good" : "bad"));
  at("what").textContent = `qlb ${status.version} \\u00b7 ${status.plane} plane \\u00b7 ${status.mode} mode \\u00b7 ` +
    `configuration ${status.config.generation} of ${status.config.loaded_at} \\u00b7 ` +
    `up ${Math.round(status.uptime_s)} s \\u00b7 ${status.listen.join(", ")}`;
  at("reload").textContent = status.config.last_reload_ok ? "" : "The last reload was refused; see the log.";
  table("backends", ["name", "address", "state", "health", "packets", "per second", "last packet", "last probe"],
    status.backends.map(backend => [[backend.name], [backend.address], [backend.state],
      backend.healthy ? ["healthy", "good"] : ["unhealthy", "bad"], [count(backend.forwarded_packets)],
      [perSecond(backend, status)], [ago(backend.last_seen_s)], [backend.detail]]));
  table("configs", ["config ID", "algorithm", "packets", "last packet"], status.cid_configs.map(config =>
    [[String(config.config_id)], [config.algorithm], [count(config.packets)], [ago(config.last_seen_s)]]));
  table("outcomes", ["outcome", "packets"], Object.entries(status.outcomes).filter(([, packets]) => packets)
    .map(([name, packets]) => [[name, name.startsWith("drop_") ? "bad" : ""], [count(packets)]]));
  table("workers", ["worker", "process", "state"], status.workers.map(worker =>
    [[String(worker.index)], [String(worker.pid)], worker.alive ? ["alive", "good"] : ["dead", "bad"]]));
  before = status;
};

const refresh = async () => {
  try {
    if (!document.hidden) {
      const answer = await fetch("/status", {cache: "no-store", signal: AbortSignal.timeout(5000)});
      if (!answer.ok) throw new Error(answer.statusText);
      show(await answer.json());
    }
  } catch {
    at("state").replaceChildren(put("span", "no answer", "bad"));
  }
  setTimeout(refresh, 1000);
};
refresh();
"""

PAGE: Final = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>qlb</title>
<style>{_STYLE}</style>
</head>
<body>
<header><h1>qlb</h1><strong id="state" role="status">…</strong><small id="what"></small></header>
<p id="reload" class="bad"></p>
<h2>Backends</h2><table id="backends"></table>
<h2>Connection ID configurations</h2><table id="configs"></table>
<h2>Outcomes</h2><table id="outcomes"></table>
<h2>Workers</h2><table id="workers"></table>
<p><small><a href="/status">/status</a> · <a href="/metrics">/metrics</a> · <a href="/readyz">/readyz</a></small></p>
<noscript>This page needs JavaScript; <a href="/status">/status</a> does not.</noscript>
<script>{_SCRIPT}</script>
</body>
</html>
"""
"""The document."""


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


PAGE_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        f"script-src {_hash(_SCRIPT)}",
        f"style-src {_hash(_STYLE)}",
        "img-src data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""Its Content-Security-Policy: this script and this style, and requests to where it came from."""
