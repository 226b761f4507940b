// Return whether a click on a link opens it in place, and keep the browser from following it; with a key held, or the middle button, it is any link.
export function opensHere(event) {
  if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return false
  event.preventDefault()
  return true
}
