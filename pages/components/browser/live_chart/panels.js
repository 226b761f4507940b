// What a metric means on the screen: its panel, its group, its unit. Everything else about curves knows only names and numbers.

const GROUPS = ["", "Preferences", "Rewards and policy", "Speed and device", "More"]
const PANELS = [
  { id: "loss", title: "Loss", unit: "nats per token", metrics: ["train_loss", "val_loss"], wide: true, log: true, format: ".4f" },
  { id: "val_bpb", title: "Validation bits per byte", metrics: ["val_bpb"], log: true, format: ".4f" },
  { id: "learning_rate", title: "Learning rate", metrics: ["learning_rate"], exact: true, format: ".3e", exponent: "e" },
  { id: "grad_norm", title: "Gradient norm", metrics: ["grad_norm"], log: true, format: ".3f" },
  { id: "margins", group: "Preferences", title: "Reward margin", metrics: ["rewards/margins", "val_rewards/margins", "margin", "val_margin"], format: ".3f" },
  { id: "accuracies", group: "Preferences", title: "Preference accuracy", metrics: ["rewards/accuracies", "val_rewards/accuracies", "accuracy", "val_accuracy"], format: ".3f" },
  { id: "rewards", group: "Preferences", title: "Rewards", metrics: ["rewards/chosen", "rewards/rejected"], format: ".3f" },
  { id: "val_rewards", group: "Preferences", title: "Rewards, validation", metrics: ["val_rewards/chosen", "val_rewards/rejected"], format: ".3f" },
  { id: "reward", group: "Rewards and policy", title: "Reward", metrics: ["reward/mean", "val_reward/mean"], format: ".3f" },
  { id: "spread", group: "Rewards and policy", title: "Reward std within group", metrics: ["reward/std"], format: ".3f" },
  { id: "length", group: "Rewards and policy", title: "Completion length, tokens", metrics: ["completion_length", "val_completion_length"], format: ".1f" },
  { id: "kl", group: "Rewards and policy", title: "KL to the reference", metrics: ["kl", "val_kl"], format: ".4f" },
  { id: "tok_per_sec", group: "Speed and device", title: "Tokens per second", metrics: ["tok_per_sec"], format: ",.0f" },
  { id: "mfu", group: "Speed and device", title: "Model FLOPs utilisation", metrics: ["mfu"], format: "%" },
  { id: "memory", group: "Speed and device", title: "Memory", metrics: ["memory_bytes"], exact: true, format: "B" },
  { id: "device_use", group: "Speed and device", title: "Device use", metrics: ["device_use"], format: "%" },
  { id: "power", group: "Speed and device", title: "Power", metrics: ["power_w"], format: "W" },
  { id: "data_wait", group: "Speed and device", title: "Data loading", metrics: ["data_wait"], format: "%" },
  { id: "generation", group: "Speed and device", title: "Generation", metrics: ["generation"], format: "%" },
]
export const LABELS = {
  train_loss: "train", val_loss: "validation", "rewards/chosen": "chosen", "rewards/rejected": "rejected",
  "val_rewards/chosen": "chosen", "val_rewards/rejected": "rejected", "reward/std": "train", completion_length: "train", val_completion_length: "validation",
  "rewards/margins": "train", "val_rewards/margins": "validation", "rewards/accuracies": "train", "val_rewards/accuracies": "validation",
  margin: "train", val_margin: "validation", accuracy: "train", val_accuracy: "validation",
  "reward/mean": "train", "val_reward/mean": "validation", kl: "train", val_kl: "validation", val_bpb: "validation",
}
export const TICKS = { "%": { tickformat: ".2~%" }, B: { tickformat: ".4~s", ticksuffix: "B" }, W: { ticksuffix: " W" } }
export const HOVER = { ".3e": ":.3~g", "%": ":.1%", B: ":.4s", W: ":.1f" }

// A panel for each metric there is: the known ones in their order, the others by name in the group that their name tells.
export function panelsOf(names) {
  const known = new Set(PANELS.flatMap((panel) => panel.metrics))
  const wanted = PANELS.filter((panel) => panel.metrics.some((name) => names.has(name)))
  for (const name of [...names].sort()) {
    if (known.has(name)) continue
    const group = /^(val_)?rewards\//.test(name) ? "Preferences" : /^(val_)?(reward|kl|completion|advantage|clip)/.test(name) ? "Rewards and policy" : "More"
    wanted.push({ id: name, group, title: inWords(name), metrics: [name], format: ".4f" })
  }
  const shown = names.has("reward/mean") ? wanted.map(ledByReward).sort((a, b) => Number(b.id === "reward") - Number(a.id === "reward")) : wanted
  return shown.sort((a, b) => GROUPS.indexOf(a.group || "") - GROUPS.indexOf(b.group || ""))
}

// A policy is known by what it earns; its loss is near 0 whatever that is.
function ledByReward(panel) {
  if (panel.id === "reward") return { ...panel, group: "", wide: true }
  return panel.id === "loss" ? { ...panel, wide: false } : panel
}

// Label a metric of another program or version: "val_rewards/odd_thing" is "Validation rewards, odd thing".
export function inWords(name) {
  const text = name.replace(/^val_/, "validation ").replaceAll("/", ", ").replaceAll("_", " ").trim()
  return text ? text[0].toUpperCase() + text.slice(1) : name
}

// Panels as the person arranged them: in their order, enlarged or left out; those that were not arranged follow as they are.
export function arrange(panels, arranged) {
  const places = new Map(arranged.map((panel, place) => [panel.id, place]))
  const ordered = [...panels].sort((a, b) => (places.get(a.id) ?? panels.length + arranged.length) - (places.get(b.id) ?? panels.length + arranged.length))
  return ordered.map((panel) => (places.has(panel.id) ? { ...panel, wide: arranged[places.get(panel.id)].wide, hidden: arranged[places.get(panel.id)].hidden } : panel))
}

// Move a panel to another's place, in a list of ids.
export function moved(ids, id, to) {
  const rest = ids.filter((one) => one !== id)
  rest.splice(to, 0, id)
  return rest
}

// As `format_bytes` writes them on the pages around.
export function bytes(value) {
  const units = ["B", "kB", "MB", "GB", "TB"]
  let place = 0
  while (value >= 1000 && place < units.length - 1) { value /= 1000; place += 1 }
  return `${value.toFixed(place === 0 || (value >= 100 && place < units.length - 1) ? 0 : 1)} ${units[place]}`
}

export function number(value, format) {
  if (value === undefined || value === null || Number.isNaN(value)) return ""
  if (format === ",.0f") return Math.round(value).toLocaleString("en")
  if (format === ".3e") return String(Number(value.toPrecision(3)))
  if (format === "%") return `${(100 * value).toFixed(1)} %`
  if (format === "B") return bytes(value)
  if (format === "W") return `${value.toFixed(0)} W`
  const digits = { ".1f": 1, ".3f": 3 }[format] ?? 4
  return Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : value.toFixed(digits)
}

// plotly.js reads a few HTML-like tags in labels: a run's name must stay text.
export function escapeLabel(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll("%{", "% {")
}
