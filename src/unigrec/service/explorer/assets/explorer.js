// What is shown is in the address behind #: every action changes the address, and every change of it shows what is new.
// Titles and ids come from shops: they are only ever set as text.

import { CHANGED, ask, at, count, explore, make, nameOf, part, report, useToken, versionOf } from "./asking.js";
import { showModel, showPictures } from "./model.js";

const SHOWN_BRANCHES = 20, SHOWN_HISTORY = 8, FOUND = 8, TYPING_MS = 150, RELATED = 6;
let state = {};
let heldOut = Promise.resolve(null); // the test user in the address
let identifiers = new Map(); // item id -> codes, of what is shown

// --- the address ----------------------------------------------------------------------------------------------------

function read() {
  const given = new URLSearchParams(location.hash.slice(1));
  return {
    history: given.getAll("h"), user: given.get("user") || "", k: Number(given.get("k")) || 10, by: given.get("by") || "",
    exclude: given.has("exclude"), filter: given.get("filter") || "", item: given.get("item") || "",
    prefix: given.get("prefix") || "", beside: given.has("beside"),
  };
}

function go(changes) {
  const wanted = { ...read(), ...changes }, values = new URLSearchParams();
  for (const item of wanted.history) values.append("h", item);
  if (wanted.k !== 10) values.set("k", wanted.k);
  for (const name of ["exclude", "beside"]) if (wanted[name]) values.set(name, "1");
  for (const name of ["user", "by", "filter", "item", "prefix"]) if (wanted[name] !== "") values.set(name, wanted[name]);
  if ("#" + values !== location.hash) location.hash = values.toString();
}

function show() {
  const before = state, changed = (...names) => names.some((name) => String(before[name]) !== String(state[name]));
  state = read();
  at("k").value = String(state.k);
  at("by").value = state.by;
  at("exclude").checked = state.exclude;
  at("beside").checked = state.beside;
  if (document.activeElement !== at("filter")) at("filter").value = state.filter;
  if (changed("user")) showUser();
  if (changed("history", "user", "k", "by", "exclude", "filter", "beside")) showNext();
  if (changed("item")) showItem();
  if (changed("prefix")) showBranches();
}

// --- items ----------------------------------------------------------------------------------------------------------

// A line of a list: title, id, identifier, further texts, and a button. More than one: the address changes once.
function line(item, action, ...more) {
  const codes = item.identifier || identifiers.get(item.item_id);
  const title = make("button", { type: "button", className: "link title", dir: "auto", onclick: () => openItem(item) }, nameOf(item));
  const under = make("div", { className: "under" });
  if (item.title) under.append(make("span", { className: "code" }, item.item_id));
  if (codes?.length) under.append(codesButton(codes));
  under.append(...more.filter(Boolean));
  return make("li", {}, make("div", { className: "line" }, title, under, action));
}

function codesButton(codes) {
  const open = () => { go({ prefix: codes.slice(0, -1).join("-") }); focusOn("tree"); };
  const label = "Identifier " + codes.join("-") + ": items that share its first codes";
  return make("button", { type: "button", className: "link code", onclick: open, "aria-label": label, title: label }, codes.join("-"));
}

function addButton(item) {
  const label = "Add to the history: " + nameOf(item);
  return make("button", { type: "button", className: "act", "aria-label": label, title: label, onclick: () => add(item.item_id) }, "+");
}

function add(id) {
  go({ history: [...read().history, id] });
  at("user-said").textContent = "";
}

function openItem(item) {
  go({ item: item.item_id });
  focusOn("item");
}

function focusOn(id) {
  const section = at(id);
  section.hidden = false;
  section.focus({ preventScroll: true });
  section.scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
}

async function named(ids) {
  const wanted = [...new Set(ids)], found = new Map();
  for (let start = 0; start < wanted.length; start += 100) {
    const answer = await ask("v1/explore/items?" + new URLSearchParams(wanted.slice(start, start + 100).map((id) => ["item", id])));
    for (const item of answer.items) found.set(item.item_id, item);
  }
  return found;
}

// --- search ---------------------------------------------------------------------------------------------------------

let typing = 0;

async function search(adding) {
  const query = at("search-box").value.trim(), list = at("found"), said = at("search-said");
  clearTimeout(typing);
  await part("search", said, async (stale) => {
    if (!query) {
      list.replaceChildren();
      said.textContent = "Enter adds the first item that is found.";
      return;
    }
    const answer = await explore("titles", { query, k: FOUND });
    if (stale()) return;
    const items = answer.items.length ? answer.items : await byMeaning(query);
    if (stale()) return;
    list.replaceChildren(...items.map((item) => line(item, addButton(item))));
    said.textContent = searched(answer, items);
    if (adding && answer.items.length) add(answer.items[0].item_id);
  });
}

// Where no title has all words. A bundle may have no search, and a query no word that it knows: then there is nothing.
async function byMeaning(query) {
  const answer = await ask("v1/search", { query, k: FOUND }).catch(() => ({ items: [] }));
  const found = await named(answer.items.map((item) => item.item_id));
  return answer.items.map((item) => found.get(item.item_id)).filter(Boolean);
}

function searched(answer, items) {
  if (!items.length) return "No item has these words.";
  if (!answer.found) return "No title has all these words; nearest by their meaning:";
  const more = answer.found > items.length ? "; the first " + items.length + " are shown" : "";
  return count(answer.found) + (answer.found === 1 ? " item" : " items") + more + ".";
}

// --- history and recommendations ------------------------------------------------------------------------------------

async function draw() {
  await part("draw", at("user-said"), async (stale) => {
    const answer = await explore("test-user", {});
    if (!stale()) go({ history: answer.history.map((item) => item.item_id), user: String(answer.number) });
  });
}

function showUser() {
  heldOut = Promise.resolve(null);
  at("user-said").textContent = "";
  if (state.user === "") return;
  heldOut = explore("test-user", { number: state.user });
  part("user", at("user-said"), async (stale) => {
    const user = await heldOut;
    if (stale()) return;
    if (!state.history.length) go({ history: user.history.map((item) => item.item_id) });
    const of = user.source === "report"
      ? "Example " + (user.number + 1) + " of " + user.of + " in the bundle's report (all test users are in the artifacts of the run, which are not here)"
      : "Test user " + count(user.number + 1) + " of " + count(user.of);
    const earlier = user.earlier ? " " + count(user.earlier) + " earlier items are left out." : "";
    at("user-said").replaceChildren(of + "." + earlier + " Taken next, and held out from the training: ", make("strong", { dir: "auto" }, nameOf(user.held_out)), ".");
  });
}

async function showNext() {
  const said = at("next-said"), { history, k, by, exclude, filter, beside } = state;
  await part("next", said, async (stale) => {
    const body = { histories: [history], k, exclude_history: exclude };
    if (by) body.rank_by = by;
    if (filter) body.filter = filter;
    const asked = withReasons(beside ? { ...body, variant: "champion" } : body);
    const challenged = beside ? withReasons({ ...body, variant: "challenger" }) : null;
    for (const one of [asked, challenged]) one?.catch(() => {}); // awaited below, unless the names fail first
    const taken = await named(history);
    if (stale()) return;
    showTaken(history, taken);
    let answer;
    try {
      [answer] = (await asked).answers;
    } catch (error) {
      if (!stale()) for (const id of ["recommended", "challenged"]) at(id).replaceChildren();
      throw error;
    }
    const found = await named(answer.items.map((item) => item.item_id));
    const user = await heldOut.catch(() => null); // `showUser` says why there is none
    if (stale()) return;
    identifiers = new Map([...taken, ...found].map(([id, item]) => [id, item.identifier]));
    report("");
    const rows = (other) => answer.items.map((item) => recommended(item, history, taken, user, placeIn(other, "challenger", item)));
    at("recommended").replaceChildren(...rows(null));
    said.textContent = summary(answer, history, user);
    for (const id of ["own-title", "other"]) at(id).hidden = !beside;
    at("both").className = beside ? "columns even" : "";
    if (!beside) return;
    at("own-title").textContent = "Champion, version " + versionOf("champion");
    at("other-title").textContent = "Challenger";
    await showChallenger(challenged, answer, { history, taken, user, stale, rows });
  });
}

// The challenger's answer to the same question, each item with its place in the champion's.
async function showChallenger(challenged, own, { history, taken, user, stale, rows }) {
  let other;
  try {
    [other] = (await challenged).answers;
  } catch (error) {
    if (stale()) return;
    at("challenged").replaceChildren();
    at("other-said").textContent = error.message;
    return;
  }
  if (stale()) return;
  at("other-title").textContent = "Challenger, version " + versionOf("challenger");
  at("recommended").replaceChildren(...rows(other));
  const bare = (item) => ({ ...item, identifier: [] }); // the identifiers on this page are the champion's
  at("challenged").replaceChildren(...other.items.map((item) => recommended(bare(item), history, taken, user, placeIn(own, "champion", item))));
  const ids = new Set(own.items.map((item) => item.item_id)), both = other.items.filter((item) => ids.has(item.item_id)).length;
  at("other-said").textContent = both + " of " + other.items.length + " are the champion's too." + (user ? " " + heldOutPlace(other, user) : "");
}

// Where the other version ranks an item; null while that is not known.
function placeIn(answer, name, item) {
  if (!answer) return null;
  const place = answer.items.findIndex((one) => one.item_id === item.item_id);
  return make("span", { className: "mark seen place" }, name + ": " + (place < 0 ? "not among its " + answer.items.length : "number " + (place + 1)));
}

function offerChallenger(challenger) {
  at("beside-line").hidden = !challenger?.version && !state.beside;
  const share = challenger?.running ? ", which answers " + +(100 * challenger.share).toPrecision(3) + " % of the visitors" : "";
  at("beside-label").textContent = "Beside the challenger" + (challenger?.version ? ", version " + challenger.version + share : "");
}

// A bundle of an earlier version has no reasons, and says so.
async function withReasons(body) {
  try {
    return await ask("v1/recommend", { ...body, reasons: true });
  } catch (error) {
    if (error.status !== 422 || !error.message.startsWith("reasons:")) throw error;
    return ask("v1/recommend", body);
  }
}

function showTaken(history, taken, all = false) {
  const hidden = all || history.length <= SHOWN_HISTORY + 1 ? 0 : history.length - SHOWN_HISTORY;
  at("earlier").hidden = !hidden;
  at("earlier").textContent = "Show " + hidden + " earlier items";
  at("earlier").onclick = () => showTaken(history, taken, true);
  at("taken").start = hidden + 1;
  at("taken").replaceChildren(...history.slice(hidden).map((id, row) => {
    const item = taken.get(id) || { item_id: id, title: "" };
    const drop = () => go({ history: history.filter((_, place) => place !== hidden + row) });
    const label = "Remove from the history: " + nameOf(item);
    const unknown = taken.has(id) ? null : make("span", { className: "mark no" }, "not in the catalogue");
    return line(item, make("button", { type: "button", className: "act", "aria-label": label, title: label, onclick: drop }, "\u00d7"), unknown);
  }));
  at("clear").disabled = !history.length && state.user === "";
}

function recommended(item, history, taken, user, place) {
  const held = user && user.held_out.item_id === item.item_id;
  const made = line(
    item, addButton(item), make("span", { className: "score" }, "score " + item.score.toFixed(3)),
    place, held ? make("span", { className: "mark" }, "held out: taken next") : null,
    history.includes(item.item_id) ? make("span", { className: "mark seen" }, "in the history") : null,
    item.reason ? make("span", { className: "reason", dir: "auto" }, item.reason.text) : nearest(item, history, taken),
  );
  if (held) made.className = "held";
  made.dataset.item = item.item_id;
  return made;
}

// The item of the history whose identifier shares most first codes; the last of several.
function nearest(item, history, taken) {
  const codes = identifiers.get(item.item_id);
  let best = null, most = 0;
  for (const id of history) {
    const other = taken.get(id);
    if (!other || !codes || item.identifier) continue;
    let shared = 0;
    while (shared < codes.length && codes[shared] === other.identifier[shared]) shared++;
    if (shared && shared >= most) [best, most] = [other, shared];
  }
  return best && make("span", { className: "reason" }, "shares " + most + (most === 1 ? " code with " : " codes with "), make("span", { dir: "auto" }, nameOf(best)));
}

function summary(answer, history, user) {
  const texts = [];
  if (answer.by_popularity) texts.push(history.length ? "No item of the history is in the catalogue: these are the most popular items." : "No history yet: these are the most popular items.");
  else texts.push("Best first, by " + (state.by || "what validation chose") + ".");
  if (answer.unknown && !answer.by_popularity) texts.push(answer.unknown + " of the history unknown.");
  if (user) {
    const run = user.rank ? "In the run's evaluation its rank was " + count(user.rank) + "." : "The run's evaluation did not find it.";
    texts.push(heldOutPlace(answer, user), run);
  }
  return texts.join(" ");
}

function heldOutPlace(answer, user) {
  const place = answer.items.findIndex((item) => item.item_id === user.held_out.item_id);
  return place < 0 ? "The held-out item is not among these " + answer.items.length + "." : "The held-out item is number " + (place + 1) + ".";
}

// --- one item -------------------------------------------------------------------------------------------------------

async function showItem() {
  at("item").hidden = !state.item;
  for (const id of ["similar", "complement"]) { at(id).replaceChildren(); at(id + "-said").textContent = ""; }
  at("item-facts").replaceChildren();
  if (!state.item) return;
  const id = state.item;
  at("item-title").textContent = id;
  part("item", at("item-facts"), async (stale) => {
    const item = await ask("v1/items/" + encodeURIComponent(id));
    if (stale()) return;
    at("item-title").replaceChildren(make("span", { dir: "auto" }, nameOf(item)));
    const facts = make("dl", {}, make("dt", {}, "identifier"), make("dd", {}, codesButton(item.identifier)));
    for (const [name, value] of Object.entries(item.columns)) {
      if (value === null || value === "" || name === "title" || name === "item_index") continue;
      facts.append(make("dt", {}, name), make("dd", { dir: "auto" }, Array.isArray(value) ? value.join(", ") : String(value)));
    }
    at("item-facts").replaceChildren(facts);
  });
  related("similar", { item: id, k: RELATED }, (item) => [
    item.shared_codes + (item.shared_codes === 1 ? " code shared" : " codes shared"), "texts " + item.score.toFixed(2),
  ]);
  related("complement", { basket: [id], k: RELATED }, (item) => {
    const times = Object.values(item.together).reduce((sum, number) => sum + number, 0);
    return [times ? "together in " + count(times) + (times === 1 ? " basket" : " baskets") : "", "lift " + item.score.toFixed(2)];
  });
}

function related(kind, body, texts) {
  part(kind, at(kind + "-said"), async (stale) => {
    const answer = await ask("v1/" + kind, body);
    const found = await named(answer.items.map((item) => item.item_id));
    if (stale()) return;
    at(kind).replaceChildren(...answer.items.map((item) => line(
      { ...item, identifier: found.get(item.item_id)?.identifier }, addButton(item),
      ...texts(item).filter(Boolean).map((text) => make("span", {}, text)),
    )));
    if (answer.stand_ins?.length) at(kind + "-said").textContent = "Never bought with another item: the baskets of items like it count.";
    else if (!answer.items.length) at(kind + "-said").textContent = "None.";
  });
}

// --- the tree of identifiers ----------------------------------------------------------------------------------------

async function showBranches(all = false) {
  await part("tree", at("tree-said"), async (stale) => {
    const node = await explore("branches", { prefix: state.prefix });
    if (stale()) return;
    showPath(node.prefix);
    const shown = all ? node.branches : node.branches.slice(0, SHOWN_BRANCHES);
    const most = node.branches.length ? node.branches[0].items : 1;
    at("branches").replaceChildren(...shown.map((branch) => bar(node, branch, most)));
    at("all-branches").hidden = shown.length === node.branches.length;
    at("all-branches").textContent = "Show all " + count(node.branches.length);
    at("tree-said").textContent = evenness(node);
    at("members-title").hidden = !node.prefix.length;
    at("members-title").textContent = "Items with " + node.prefix.join("-") + (node.members.length < node.items ? ", the most popular " + node.members.length : "");
    at("members").replaceChildren(...(node.prefix.length ? node.members : []).map((item) => line(item, addButton(item))));
  });
}

function showPath(prefix) {
  const step = (length) => make("button", {
    type: "button", className: "link code", onclick: () => go({ prefix: prefix.slice(0, length).join("-") }),
    "aria-current": length === prefix.length ? "page" : null,
  }, length ? String(prefix[length - 1]) : "all");
  at("path").replaceChildren(...[...prefix, 0].flatMap((_, length) => (length ? ["\u203a ", step(length)] : [step(0)])));
}

function bar(node, branch, most) {
  const code = [...node.prefix, branch.code].join("-"), example = branch.example;
  const drawn = make("div", { className: "bar" });
  drawn.style.width = (100 * branch.items) / most + "%";
  return make("li", {},
    make("button", { type: "button", className: "link code", onclick: () => go({ prefix: code }), "aria-label": code + ": " + branch.items + " items" }, code),
    drawn, make("span", { className: "count" }, count(branch.items)),
    make("span", { className: "example", dir: "auto", title: nameOf(example) }, nameOf(example)));
}

// The number of equal branches that would have the same entropy.
function evenness(node) {
  const items = count(node.items) + (node.items === 1 ? " item" : " items");
  if (!node.branches.length) return items + " with this whole identifier.";
  let entropy = 0;
  for (const branch of node.branches) entropy -= (branch.items / node.items) * Math.log(branch.items / node.items);
  const branches = node.branches.length;
  return items + " in " + count(branches) + (branches === 1 ? " branch." : " branches, as even as " + Math.exp(entropy).toFixed(1) + " equal ones.");
}

// --- start ----------------------------------------------------------------------------------------------------------

function start() {
  at("search-box").addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(search, TYPING_MS, false); });
  at("search-box").addEventListener("keydown", (event) => { if (event.key === "Enter") search(true); });
  at("draw").addEventListener("click", draw);
  at("clear").addEventListener("click", () => { go({ history: [], user: "" }); at("search-box").focus(); });
  at("add-item").addEventListener("click", () => add(state.item));
  at("close-item").addEventListener("click", () => { go({ item: "" }); at("search-box").focus(); });
  at("k").addEventListener("change", () => go({ k: Number(at("k").value) }));
  at("by").addEventListener("change", () => go({ by: at("by").value }));
  at("exclude").addEventListener("change", () => go({ exclude: at("exclude").checked }));
  at("beside").addEventListener("change", () => go({ beside: at("beside").checked }));
  at("filter").addEventListener("change", () => go({ filter: at("filter").value.trim() }));
  at("all-branches").addEventListener("click", () => showBranches(true));
  at("pictures").addEventListener("toggle", () => { if (at("pictures").open) showPictures(); });
  for (const button of document.querySelectorAll("[data-to]")) button.addEventListener("click", () => focusOn(button.dataset.to));
  at("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    useToken(at("token").value.trim());
    at("token").value = "";
    at("token-form").hidden = true;
    report("");
    showAll();
  });
  addEventListener("hashchange", show);
  document.addEventListener(CHANGED, () => { at("changed").hidden = false; });
  at("reload").addEventListener("click", () => { at("changed").hidden = true; showAll(); });
  showAll();
}

function showAll() {
  state = {};
  show();
  showModel(offerChallenger);
}

start();
