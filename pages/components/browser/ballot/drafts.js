// What was filled in about battles that were not voted on yet, kept in the browser's storage: a reload loses none of it.

const MAX_DRAFTS = 20 // of battles that came and went without a vote, the oldest are dropped

export class Drafts {
  constructor(name) {
    this.name = name
  }

  // Return the parts of a battle, empty without any.
  of(battle) {
    return this.stored()[battle] || {}
  }

  // Keep the parts of a battle, or drop them where there are none.
  keep(battle, parts) {
    const others = Object.entries(this.stored()).filter(([name]) => name !== battle)
    const drafts = [...others, ...(Object.keys(parts).length ? [[battle, parts]] : [])].slice(-MAX_DRAFTS)
    try {
      if (drafts.length) localStorage.setItem(this.name, JSON.stringify(Object.fromEntries(drafts)))
      else localStorage.removeItem(this.name)
    } catch { /* storage is full or forbidden: the draft stays in this page */ }
  }

  stored() {
    try {
      return Object(JSON.parse(localStorage.getItem(this.name) || "{}"))
    } catch {
      return {}
    }
  }
}
