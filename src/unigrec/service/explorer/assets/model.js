// The model that answers: its gates, figures, data and pictures, from the bundle's report.

import { ask, at, count, make, part } from "./asking.js";

// met: gets what the service says of a challenger; undefined if it has none.
export async function showModel(met) {
  await part("model", null, async () => {
    const model = await ask("v1/model"), figures = model.metrics.unmasked || {};
    met(model.challenger);
    const texts = ["Version " + model.version, count(model.items) + " items", "ranks by " + model.ranks_by];
    if (figures.recall_at_10 !== undefined) texts.push("Recall@10 " + figures.recall_at_10.toFixed(4), "NDCG@10 " + figures.ndcg_at_10.toFixed(4));
    if (model.since) texts.push("since " + model.since.slice(0, 16).replace("T", " "));
    at("model-line").textContent = texts.join(" \u00b7 ");
    const found = await ask("v1/explore/report");
    at("report").replaceChildren(...[
      model.why ? make("p", {}, "Why it answers: " + model.why) : null,
      ...(found.warnings || []).map((text) => make("p", { className: "mark no" }, text)),
      gates(found.decision), quality(found), facts(found, model),
    ].filter(Boolean));
    at("pictures").hidden = !found.pictures.length;
    at("pictures").dataset.names = JSON.stringify(found.pictures);
    if (at("pictures").open) showPictures();
  });
}

function table(head, rows) {
  const cell = (name, value, place) => make(name, { className: typeof value === "object" && value?.number ? "number" : "", scope: name === "th" && !place ? "col" : "" }, ...(value?.parts || [value]));
  const body = rows.map(({ cells, className }) => make("tr", { className: className || "" }, ...cells.map((value) => cell("td", value, 1))));
  return make("div", { className: "scroll", tabIndex: 0 }, make("table", {}, make("thead", {}, make("tr", {}, ...head.map((value) => cell("th", value, 0)))), make("tbody", {}, ...body)));
}

function gates(decision) {
  if (!decision) return null;
  const rows = decision.gates.map((gate) => make("li", {},
    make("span", { className: gate.passed ? "mark" : gate.informational ? "mark seen" : "mark no" }, gate.passed ? "passed" : gate.informational ? "target missed" : "refused"),
    make("span", {}, gate.reason)));
  const failed = decision.gates.filter((gate) => !gate.passed && !gate.informational).length;
  return make("div", {}, make("h3", {}, "Gates: " + (decision.passed ? "passed" : failed + " refused")), make("ol", { className: "gates plain" }, ...rows));
}

function quality(found) {
  if (!found.metrics) return null;
  const columns = [["unmasked", "recall_at_10"], ["unmasked", "ndcg_at_10"], ["masked", "recall_at_10"], ["masked", "ndcg_at_10"]];
  const value = (model, [protocol, name]) => {
    const figure = found.metrics[model]?.[protocol]?.[name], bounds = found.intervals?.[model]?.[protocol]?.[name];
    const range = bounds && make("small", {}, " " + bounds.map((bound) => bound.toFixed(3)).join("\u2013"));
    return { number: true, parts: [figure === undefined ? "" : figure.toFixed(4), range || ""] };
  };
  const rows = Object.keys(found.metrics).map((model) => ({
    className: model === "shipped" ? "shipped" : "",
    cells: [model === "shipped" && found.shipped_as ? "shipped: " + found.shipped_as : model, ...columns.map((column) => value(model, column))],
  }));
  const head = ["ranking", ...columns.map(([protocol, name]) => ({ number: true, parts: [protocol + " " + (name[0] === "r" ? "Recall@10" : "NDCG@10")] }))];
  const note = "Test users' held-out items. Masked leaves out the items of the history." + (found.intervals ? " Small: 95 % by bootstrap over users." : "");
  return make("div", {}, make("h3", {}, "Quality"), make("p", { className: "note" }, note), table(head, rows));
}

function facts(found, model) {
  const list = make("dl"), row = (name, value) => value && list.append(make("dt", {}, name), make("dd", {}, value));
  const share = (value) => (100 * value).toFixed(1) + " %", health = found.identifiers || {};
  row("data", found.data && found.data.name + ", " + found.data.from + " to " + found.data.until);
  row("after filtering", found.data?.sizes && Object.entries(found.data.sizes.after).map(([name, number]) => count(number) + " " + name).join(", "));
  row("data checks", found.checks && Object.entries(found.checks.counts).map(([kind, counts]) => kind + ": " + Object.entries(counts).map(([result, number]) => number + " " + result).join(", ")).join("; "));
  row("failed checks", found.checks?.failed.map((check) => check.name).join("; "));
  if (health.collision_rate !== undefined) row("items that share all codes", share(health.collision_rate));
  if (health.codebook_utilisation) row("used codes, by level", health.codebook_utilisation.map(share).join(", "));
  row("data version", model.data.version);
  row("bundle", model.bundle);
  row("commit", model.git_commit);
  return make("div", {}, make("h3", {}, "Data and identifiers"), list);
}

export async function showPictures() {
  const names = JSON.parse(at("pictures").dataset.names || "[]");
  delete at("pictures").dataset.names;
  await part("pictures", null, async () => {
    for (const name of names) {
      const picture = URL.createObjectURL(await ask("v1/explore/pictures/" + name, null, "blob"));
      const words = name.replace("/", ": ").replaceAll("_", " ");
      at("figures").append(make("figure", { tabIndex: 0 }, make("img", { src: picture, alt: words }), make("figcaption", { className: "note" }, words)));
    }
  });
}
