// Tells Stratavore what this opencode does, and takes answers to what it asks.
//
// Stratavore injects this file into one run by a variable; no configuration of the user's is touched. It opens no port and imports nothing but Node's own modules.
//
// Events go to Stratavore's hook command as JSON on its standard input, one call at a time and in
// order: what comes while a call runs goes with the next one. What opencode asks goes by a call of
// its own that waits for the answer.

import { spawn, spawnSync } from "node:child_process"

const HOOK = "{stratavore:hook}"
const TITLE = "{stratavore:title}"
const FORK_OF = "{stratavore:fork}"
const OPENS = "{stratavore:opens}"
const VARIABLE = "{stratavore:variable}"

// A hook that hangs must not hold opencode up at its end, nor fill its memory.
const LAST_CALL_MS = 2000
const WAITING_MAX = 10000
const TITLE_MAX = 80

const waiting = []
// By the id of what is asked: the call that waits for its answer.
const asking = new Map()
let calling = false
let forkOf = FORK_OF

function call(args, options) {
  return spawn(HOOK[0], [...HOOK.slice(1), ...args], { stdio: ["pipe", "pipe", "ignore"], ...options })
}

function tell(event) {
  waiting.push({ at: Date.now(), ...event })
  if (waiting.length > WAITING_MAX) waiting.shift()
  if (!calling) next()
}

function take() {
  return body(waiting.splice(0, waiting.length))
}

// The name is for people who look at signals.
function body(events) {
  const names = new Set(events.map((event) => event.type))
  return JSON.stringify({ hook_event_name: [...names].join(" "), opencode: events })
}

function next() {
  if (waiting.length === 0) return
  calling = true
  let over = false
  const done = () => {
    if (over) return
    over = true
    calling = false
    next()
  }
  const child = call([], { stdio: ["pipe", "ignore", "ignore"] })
  child.on("error", done)
  child.on("close", done)
  child.stdin.on("error", () => {})
  child.stdin.end(take())
}

function ask(event, reply) {
  const id = event.properties.id
  let answer = ""
  let failed = false
  const child = call(["--wait"])
  asking.set(id, child)
  child.on("error", () => {
    failed = true
    asking.delete(id)
    // Nobody can answer, but it is known that it waits.
    tell(event)
  })
  child.stdout.on("data", (data) => {
    answer += data
  })
  child.on("close", () => {
    if (failed || !asking.delete(id)) return
    let given
    try {
      given = JSON.parse(answer)
    } catch {
      return
    }
    reply(id, given).catch(() => {})
  })
  child.stdin.on("error", () => {})
  child.stdin.end(body([{ at: Date.now(), ...event }]))
}

function answered(id) {
  const child = asking.get(id)
  asking.delete(id)
  child?.kill()
}

// Parts of messages that are whole, and that an answer has begun. While a text grows it is told again
// and again.
function isWhole(part) {
  if (part?.type === "text") return Boolean(part.time?.end)
  if (part?.type === "tool") return part.state?.status === "completed" || part.state?.status === "error"
  return part?.type === "step-start"
}

function isTold(event) {
  const properties = event.properties
  switch (event.type) {
    case "session.created":
    case "session.updated":
    case "session.deleted":
    case "session.idle":
    case "session.status":
    case "session.error":
    case "session.compacted":
    case "permission.replied":
    case "question.replied":
    case "question.rejected":
      return true
    case "message.updated":
      return properties.info?.role === "assistant" && Boolean(properties.info.time?.completed)
    case "message.part.updated":
      return isWhole(properties.part)
    default:
      return false
  }
}

// The same again changes nothing.
const told = new Map()
function isNew(event) {
  const properties = event.properties
  let key
  let value
  if (event.type === "session.status") {
    key = `status ${properties.sessionID}`
    value = JSON.stringify(properties.status)
  } else if (event.type === "session.updated") {
    key = `session ${properties.sessionID ?? properties.info?.id}`
    value = JSON.stringify([properties.info?.title, properties.info?.model, properties.info?.agent])
  } else if (event.type === "message.updated") {
    key = `message ${properties.info.id}`
    value = JSON.stringify([properties.info.tokens, properties.info.cost, properties.info.error])
  } else {
    return true
  }
  if (told.get(key) === value) return false
  told.delete(key)
  told.set(key, value)
  if (told.size > 1000) told.delete(told.keys().next().value)
  return true
}

// Whatever was not told yet, when opencode ends in a hurry.
process.on("exit", () => {
  for (const child of asking.values()) child.kill()
  if (waiting.length === 0) return
  spawnSync(HOOK[0], HOOK.slice(1), { input: take(), stdio: ["pipe", "ignore", "ignore"], timeout: LAST_CALL_MS })
})

export const Stratavore = async ({ client, directory }) => {
  const http = client._client
  const json = { "Content-Type": "application/json" }

  const permission = (id, { reply, message }) =>
    http.post({ url: "/permission/{requestID}/reply", path: { requestID: id }, body: { reply, message }, headers: json })

  const question = (id, { answers }) =>
    answers
      ? http.post({ url: "/question/{requestID}/reply", path: { requestID: id }, body: { answers }, headers: json })
      : http.post({ url: "/question/{requestID}/reject", path: { requestID: id } })

  // Titles are not asked of the model in this run, for those requests are in no transcript.
  const named = new Map()
  let first = true
  const name = (sessionID, parts) => {
    const title = named.get(sessionID)
    if (!title || !/^(New|Child) session - /.test(title)) return
    named.delete(sessionID)
    const text = parts.find((part) => part.type === "text" && !part.synthetic)?.text ?? ""
    const line = (first && TITLE) || text.trim().split("\n")[0].trim()
    first = false
    if (!line) return
    client.session.update({ path: { id: sessionID }, body: { title: line.slice(0, TITLE_MAX) } }).catch(() => {})
  }

  tell({ type: "stratavore.ready", properties: { directory, opens: OPENS } })

  return {
    event: async ({ event }) => {
      const properties = event.properties ?? {}
      if (event.type === "session.created" || event.type === "session.updated") {
        if (!properties.info?.parentID) named.set(properties.info?.id, properties.info?.title)
      }
      if (event.type === "permission.asked") return ask({ type: event.type, properties }, permission)
      if (event.type === "question.asked") return ask({ type: event.type, properties }, question)
      if (event.type === "permission.replied" || event.type === "question.replied" || event.type === "question.rejected") {
        answered(properties.requestID)
      }
      if (!isTold(event) || !isNew(event)) return
      if (event.type === "session.created" && forkOf && !properties.info?.parentID) {
        tell({ type: event.type, properties, fork: forkOf })
        forkOf = ""
        return
      }
      tell({ type: event.type, properties })
    },
    "chat.message": async (input, output) => {
      tell({ type: "chat.message", properties: { sessionID: input.sessionID, info: output.message, parts: output.parts } })
      name(input.sessionID, output.parts)
    },
    // An opencode that a tool starts is not the one that is observed: it must not find this file.
    "shell.env": async (input, output) => {
      output.env[VARIABLE] = ""
    },
    dispose: async () => {
      const end = Date.now() + LAST_CALL_MS
      while ((calling || waiting.length > 0) && Date.now() < end) await new Promise((resolve) => setTimeout(resolve, 5))
    },
  }
}
