// Chart settings, stored in the address (for sharing) and in the browser (as defaults).

const SETTINGS = "roundhouse.curves"
const DEFAULTS = { x: "step", smoothing: 0.5, logx: false, logy: false, clip: false }
export const ACROSS = { step: "Steps", tokens: "Tokens", time: "Time", flops: "FLOPs" }

// ?chart=tokens_s60_logy_clip: what differs from the defaults, in any order.
export function readSettings() {
  let kept = {}
  try { kept = JSON.parse(localStorage.getItem(SETTINGS)) || {} } catch { /* a browser that keeps nothing still draws */ }
  const settings = { ...DEFAULTS }
  for (const name of Object.keys(DEFAULTS)) if (typeof kept[name] === typeof DEFAULTS[name]) settings[name] = kept[name]
  const text = new URLSearchParams(location.search).get("chart")
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
  try { localStorage.setItem(SETTINGS, JSON.stringify(settings)) } catch { /* as above */ }
  const parts = []
  if (settings.x !== DEFAULTS.x) parts.push(settings.x)
  if (settings.smoothing !== DEFAULTS.smoothing) parts.push(`s${Math.round(settings.smoothing * 100)}`)
  for (const name of ["logx", "logy", "clip"]) if (settings[name]) parts.push(name)
  const url = new URL(location.href)
  const text = parts.join("_")
  if ((url.searchParams.get("chart") || "") === text) return
  if (text) url.searchParams.set("chart", text); else url.searchParams.delete("chart")
  history.replaceState(history.state, "", url)
}
