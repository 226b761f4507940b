// Chart settings, stored in the address (for sharing) and in the browser (as defaults).

const SETTINGS = "roundhouse.curves"
const DEFAULTS = { x: "step", smoothing: 0.5, logx: false, logy: false, clip: false }
export const ACROSS = { step: "Steps", tokens: "Tokens", time: "Time", flops: "FLOPs" }

// ?panels=loss*,grad_norm,val_bpb-: panels in their order, enlarged (*) or left out (-); nothing where they are as they come.
export function readPanels(text) {
  const panels = new Map()
  for (const part of text.split(",")) {
    const [, id, marks] = /^(.*?)([*-]*)$/.exec(part)
    if (id) panels.set(id, { id, wide: marks.includes("*"), hidden: marks.includes("-") })
  }
  return [...panels.values()]
}

function panelsText(panels) {
  return panels.map(({ id, wide, hidden }) => `${id}${wide ? "*" : ""}${hidden ? "-" : ""}`).join(",")
}

// ?chart=tokens_s60_logy_clip: what differs from the defaults, in any order.
export function readSettings() {
  let kept = {}
  try { kept = JSON.parse(localStorage.getItem(SETTINGS)) || {} } catch { /* a browser that keeps nothing still draws */ }
  const settings = { ...DEFAULTS, panels: /** @type {{ id: string, wide: boolean, hidden: boolean }[]} */ ([]) }
  for (const name of Object.keys(DEFAULTS)) if (typeof kept[name] === typeof DEFAULTS[name]) settings[name] = kept[name]
  const address = new URLSearchParams(location.search)
  settings.panels = readPanels(address.get("panels") ?? (typeof kept.panels === "string" ? kept.panels : ""))
  const text = address.get("chart")
  if (text !== null) {
    Object.assign(settings, DEFAULTS)
    for (const part of text.split("_")) {
      if (part in ACROSS) settings.x = part
      else if (/^s\d\d?$/.test(part)) settings.smoothing = Number(part.slice(1)) / 100
      else if (part in DEFAULTS && typeof DEFAULTS[part] === "boolean") settings[part] = true
    }
  }
  if (!(settings.x in ACROSS)) settings.x = DEFAULTS.x
  settings.smoothing = Math.min(0.98, Math.max(0, settings.smoothing))
  return settings
}

export function writeSettings(settings) {
  const panels = panelsText(settings.panels)
  try { localStorage.setItem(SETTINGS, JSON.stringify({ ...settings, panels })) } catch { /* as above */ }
  const parts = []
  if (settings.x !== DEFAULTS.x) parts.push(settings.x)
  if (settings.smoothing !== DEFAULTS.smoothing) parts.push(`s${Math.round(settings.smoothing * 100)}`)
  for (const name of ["logx", "logy", "clip"]) if (settings[name]) parts.push(name)
  const url = new URL(location.href)
  const before = url.href
  for (const [name, text] of [["chart", parts.join("_")], ["panels", panels]]) {
    if ((url.searchParams.get(name) || "") === text) continue
    if (text) url.searchParams.set(name, text); else url.searchParams.delete(name)
  }
  if (url.href !== before) history.replaceState(history.state, "", url)
}
