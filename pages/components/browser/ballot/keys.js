// Keys of the ballot. A key typed into a field, held down, or pressed with Ctrl, Alt or Meta is not ours.

export const KEYS = [
  ["1", "A is better"], ["2", "B is better"], ["3", "Equally good"], ["4", "Both bad"],
  ["S", "Skip this battle"], ["U", "Undo, up to ten votes"], ["D", "Show the differences"], ["R", "Raw text"], ["P", "Show all of the prompt"],
  ["↑ ↓ or K J", "Scroll both answers"], ["N", "Write a note"], ["F", "Flag a problem"], ["I", "Instructions, if there are any"], ["Esc", "Close"], ["?", "These keys"],
]
const ALIASES = { arrowdown: "down", j: "down", arrowup: "up", k: "up", pagedown: "page down", pageup: "page up", backspace: "u", escape: "escape" }

export function isTyping(event) {
  const target = event.target
  if (event.isComposing || !(target instanceof HTMLElement)) return event.isComposing
  if (target instanceof HTMLInputElement) return !["checkbox", "radio", "button"].includes(target.type)
  return target.isContentEditable || ["TEXTAREA", "SELECT"].includes(target.tagName)
}

// Return the name of a pressed key, or null if it is none of the ballot's.
export function keyOf(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || event.defaultPrevented) return null
  const key = event.key.toLowerCase()
  const name = ALIASES[key] || key
  if (isTyping(event)) return name === "escape" ? name : null
  if (event.repeat && !["down", "up", "page down", "page up"].includes(name)) return null
  return name
}
