// What all parts of the page use: elements, and questions to the service.

export const CHANGED = "model-changed"; // event of the document: another version answers than before
let token = ""; // in memory only
const versions = new Map(); // champion or challenger -> the version that answered last
const running = new Map(); // part of the page -> number of its last question: earlier answers are not shown

export const versionOf = (variant) => versions.get(variant);
export const at = (id) => document.getElementById(id);
export const nameOf = (item) => item.title || item.item_id;
export const count = (number) => number.toLocaleString("en");

export function make(name, properties, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties || {})) {
    if (value === null) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key in made) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

class Refused extends Error {
  constructor(status, text) { super(text); this.status = status; }
}

export async function ask(path, body, kind = "json") {
  const headers = {};
  if (body) headers["Content-Type"] = "application/json";
  if (token) headers.Authorization = "Bearer " + token;
  let answer;
  try {
    answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body) });
  } catch {
    throw new Refused(0, "The service does not answer. Is it still running?");
  }
  const answered = answer.headers.get("X-Unigrec-Version");
  const variant = answer.headers.get("X-Unigrec-Variant") || "champion";
  if (answered !== null && answered !== versions.get(variant)) {
    if (versions.has(variant)) document.dispatchEvent(new Event(CHANGED));
    versions.set(variant, answered);
  }
  if (answer.ok) return answer[kind]();
  const said = await answer.json().catch(() => ({}));
  if (answer.status === 401) {
    at("token-form").hidden = false;
    at("token").focus();
  }
  throw new Refused(answer.status, said.detail || "status " + answer.status);
}

export const explore = (name, values) => ask("v1/explore/" + name + "?" + new URLSearchParams(values));

export function useToken(given) {
  token = given;
}

// Runs the work of a part of the page. `work` gets a function that tells whether the part was asked anew meanwhile.
export async function part(name, said, work) {
  const number = (running.get(name) || 0) + 1;
  running.set(name, number);
  const stale = () => running.get(name) !== number;
  try {
    await work(stale);
  } catch (error) {
    if (stale()) return;
    if (said && error.status !== 401) said.textContent = error.message;
    if (!said || error.status === 401) report(error.status === 401 && !token ? "" : error.message);
    if (!(error instanceof Refused)) throw error;
  }
}

export function report(text) {
  at("problem").textContent = text;
  at("problem").hidden = !text;
}
