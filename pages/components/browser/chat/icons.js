// Buttons with an icon of the font that Streamlit brings, named for who can't see it.

import { element } from "../dom.js"

/**
 * @param {string} icon
 * @param {string} name
 * @param {(event: any) => void} onClick
 * @param {{words?: string, pressed?: boolean}} [options]
 */
export function iconButton(icon, name, onClick, { words = "", pressed } = {}) {
  const button = element("button", "pg-tool")
  button.type = "button"
  const picture = element("span", "pg-icon", icon)
  picture.setAttribute("aria-hidden", "true")
  button.append(picture)
  if (words) button.append(element("span", "", words))
  button.title = name
  button.setAttribute("aria-label", name)
  if (pressed !== undefined) button.setAttribute("aria-pressed", String(pressed))
  button.onclick = onClick
  return button
}

export async function copy(text, button) {
  const icon = button.querySelector(".pg-icon")
  const before = icon?.textContent
  try {
    await navigator.clipboard.writeText(text)
  } catch {
    const field = document.body.appendChild(element("textarea", "pg-unseen"))
    field.value = text
    field.select()
    document.execCommand("copy")
    field.remove()
  }
  if (!icon) return
  icon.textContent = "check"
  setTimeout(() => { icon.textContent = before }, 1200)
}
