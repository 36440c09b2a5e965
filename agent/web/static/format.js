// Numbers and states in words, the same everywhere on the page.

export const seconds = (s) => {
  if (!s) return "–";
  const ms = s * 1000;
  return ms < 1 ? `${(ms * 1000).toFixed(0)} µs` : ms < 10 ? `${ms.toFixed(1)} ms` : ms < 1000 ? `${ms.toFixed(0)} ms` : `${s.toFixed(1)} s`;
};

const scaled = (n, units, base) => {
  let i = 0;
  while (n >= base && i < units.length - 1) { n /= base; i++; }
  return `${n >= 100 || i === 0 ? n.toFixed(0) : n.toFixed(1)} ${units[i]}`;
};

export const bytes = (n) => scaled(n, ["B", "kB", "MB", "GB", "TB", "PB"], 1000);
export const rate = (n) => (n < 1 ? "–" : scaled(n * 8, ["bit/s", "kbit/s", "Mbit/s", "Gbit/s"], 1000));
export const percent = (r) => (r === 0 ? "0 %" : r < 0.01 ? `${(r * 100).toFixed(1)} %` : `${(r * 100).toFixed(0)} %`);

export const ago = (iso, now = Date.now()) => {
  const t = Date.parse(iso);
  if (!iso || t <= 0 || Number.isNaN(t)) return "never";
  const s = Math.max(0, (now - t) / 1000);
  return s < 90 ? `${s.toFixed(0)} s ago` : s < 5400 ? `${(s / 60).toFixed(0)} min ago` : s < 172800 ? `${(s / 3600).toFixed(0)} h ago` : `${(s / 86400).toFixed(0)} days ago`;
};

// lastDay tells of the trouble of the last 24 hours, as gridwire status does; nothing where there was none.
export const lastDay = (d) => {
  if (!d) return "";
  const down = d.down_minutes >= 60 ? `${Math.floor(d.down_minutes / 60)} h ${d.down_minutes % 60} min` : `${d.down_minutes} min`;
  return [
    d.down_minutes ? `down for ${down}` : "", d.interrupted_minutes ? `lost in ${d.interrupted_minutes} different minute${d.interrupted_minutes > 1 ? "s" : ""}` : "",
    d.last_down ? `last at ${new Date(d.last_down).toLocaleString()}` : "", d.loss_ratio >= 0.01 ? `${percent(d.loss_ratio)} of probes lost` : "",
  ].filter(Boolean).join(", ");
};

export const date = (iso) => (iso ? new Date(iso).toLocaleDateString(undefined, { day: "numeric", month: "long", year: "numeric" }) : "–");

// health sorts a peer into the kinds that the legend shows.
export const health = (p) => {
  if (p.state === "unreachable" || p.state === "connecting") return "bad";
  if (p.path.kind === "relay") return "relay";
  if (p.state === "idle") return "idle";
  return p.loss_ratio >= 0.05 || p.rtt_seconds > 0.4 ? "warn" : "good";
};

export const pathText = (p) => {
  if (p.path.kind === "none") return "none";
  if (p.path.kind === "relay") return `relay, by way of ${p.path.via}`;
  const family = p.path.remote.startsWith("[") ? "IPv6" : "IPv4";
  return p.path.local_type === "host" && p.path.remote_type === "host" ? `direct, ${family}` : `direct, ${family} through NAT`;
};

export const stateText = (p) => ({ connected: "connected", connecting: "connecting", idle: "resting", unreachable: "no link" }[p.state] || p.state);

export const summary = (p) =>
  `${p.name}: ${stateText(p)}, path ${pathText(p)}` + (p.state === "connected" ? `, round trip ${seconds(p.rtt_seconds)}, loss ${percent(p.loss_ratio)}` : p.reason ? `: ${p.reason}` : "");

// el makes an element; text never becomes HTML, since names and reasons come from other machines.
export const el = (tag, attributes = {}, ...children) => {
  const e = document.createElement(tag);
  return fill(e, attributes, children);
};

export const svg = (tag, attributes = {}, ...children) => {
  const e = document.createElementNS("http://www.w3.org/2000/svg", tag);
  return fill(e, attributes, children);
};

const fill = (e, attributes, children) => {
  for (const [k, v] of Object.entries(attributes)) {
    if (k.startsWith("on")) e.addEventListener(k.slice(2), v);
    else if (v !== false && v !== null && v !== undefined) e.setAttribute(k, v === true ? "" : v);
  }
  e.append(...children.filter((c) => c !== null && c !== undefined && c !== false));
  return e;
};

// mark draws the sign of a health, which differs in shape too: colour alone is not for everybody.
export const mark = (kind, r) => {
  switch (kind) {
    case "warn": return svg("path", { d: `M0 ${-r * 1.15}L${r * 1.15} 0 0 ${r * 1.15} ${-r * 1.15} 0Z`, class: "dot warn" });
    case "relay": return svg("rect", { x: -r * 0.9, y: -r * 0.9, width: r * 1.8, height: r * 1.8, class: "dot relay" });
    case "bad": return svg("path", { d: `M${-r * 0.8} ${-r * 0.8} ${r * 0.8} ${r * 0.8}M${r * 0.8} ${-r * 0.8} ${-r * 0.8} ${r * 0.8}`, class: "cross" });
    default: return svg("circle", { r, class: `dot ${kind}` });
  }
};
