
"use strict";
// Shows the answers. What a model, a judge or a file wrote always becomes a text node, never markup.

const data = JSON.parse(document.getElementById("data").textContent);
const STEP = 25; // questions drawn at once
const LONG = 1500; // characters above which a text is folded
const PRINTED = 500; // most questions in print

const byId = (id) => document.getElementById(id);
const [QUERY, SCOPE, AHEAD, CATEGORY, ORDER] = ["query", "scope", "ahead", "category", "order"].map(byId);
const ALL = "all", DISAGREEING = "disagreeing";
const disagreeing = new Set(data.disagreeing);

let haystacks = null; // the words of every question in lower case, built at the first search
let chosen = []; // indices of the questions that match, in order
let drawn = 0; // how many of them are on the page

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) if (value !== null) made.setAttribute(key, value);
  made.append(...children.filter((child) => child !== null));
  return made;
}

// Choosing

function haystack(number) {
  if (!haystacks) {
    haystacks = data.questions.map((question, n) => {
      const answers = data.answers.map((answersOfRun) => answersOfRun[n]);
      const words = answers.flatMap((answer) => [answer.text, answer.parsed, answer.note]);
      return [question.id, question.text, question.target, question.image, question.note, ...words]
        .filter(Boolean).join("\n").toLowerCase();
    });
  }
  return haystacks[number];
}

const score = (run, number) => data.answers[run][number].score;
const runsInScope = () => (/^\d+$/.test(SCOPE.value) ? [Number(SCOPE.value)] : data.runs.map((_, run) => run));

function hasOutcome(number, outcome) {
  if (outcome === ALL) return true;
  if (outcome === DISAGREEING) return disagreeing.has(number);
  const has = (run) => data.answers[run][number].outcome === outcome;
  return SCOPE.value === "every" ? runsInScope().every(has) : runsInScope().some(has);
}

function passesOthers(number, words, category, ahead) {
  if (category !== "" && !data.questions[number].categories.includes(Number(category))) return false;
  if (ahead) {
    const [better, worse] = ahead.map((run) => score(run, number));
    if (better === null || worse === null || !(better > worse)) return false;
  }
  return words === "" || haystack(number).includes(words);
}

function spread(number) {
  const known = data.runs.map((_, run) => score(run, number)).filter((value) => value !== null);
  return known.length < 2 ? -1 : Math.max(...known) - Math.min(...known);
}

function lowest(number) {
  const known = data.runs.map((_, run) => score(run, number)).filter((value) => value !== null);
  return known.length ? Math.min(...known) : 2;
}

const orders = {
  file: null,
  difference: (one, other) => spread(other) - spread(one),
  score: (one, other) => lowest(one) - lowest(other),
};

const shownOutcome = () => document.querySelector("#show input:checked").value;

function choose() {
  const words = QUERY.value.trim().toLowerCase();
  const ahead = AHEAD.value === "" ? null : AHEAD.value.split(">").map(Number);
  const passing = data.questions.map((_, number) => number)
    .filter((number) => passesOthers(number, words, CATEGORY.value, ahead));
  for (const label of document.querySelectorAll("#show .choice")) {
    const outcome = label.querySelector("input").value;
    const count = passing.filter((number) => hasOutcome(number, outcome)).length;
    label.querySelector(".count").textContent = ` (${count.toLocaleString("en")})`;
  }
  const outcome = shownOutcome();
  chosen = passing.filter((number) => hasOutcome(number, outcome));
  if (orders[ORDER.value]) chosen.sort((one, other) => orders[ORDER.value](one, other) || one - other);
  byId("list").replaceChildren();
  drawn = 0;
  drawMore();
  const all = data.questions.length.toLocaleString("en");
  byId("count").textContent = chosen.length
    ? `${chosen.length.toLocaleString("en")} of ${all} questions`
    : `None of ${all} questions fits. “Show all again” removes every filter.`;
  remember();
}

// Drawing

function drawMore(upTo = drawn + STEP) {
  const next = chosen.slice(drawn, upTo);
  byId("list").append(...next.map(drawQuestion));
  drawn += next.length;
  byId("more").hidden = drawn >= chosen.length;
}

function marked(text) {
  const words = QUERY.value.trim().toLowerCase();
  const folded = text.toLowerCase();
  // Some letters change their length in lower case. Then nothing is marked, instead of the wrong place.
  if (words === "" || folded.length !== text.length) return [text];
  const parts = [];
  let start = 0;
  for (let at = folded.indexOf(words); at >= 0; at = folded.indexOf(words, start)) {
    parts.push(text.slice(start, at), element("mark", {}, text.slice(at, at + words.length)));
    start = at + words.length;
  }
  return [...parts, text.slice(start)];
}

function passage(text, empty = "(nothing)") {
  if (!text) return element("p", { class: "text quiet" }, empty);
  const whole = () => element("p", { class: "text", dir: "auto" }, ...marked(text));
  if (text.length <= LONG) return whole();
  const button = element("button", { type: "button" }, `Show all ${text.length.toLocaleString("en")} characters`);
  const folded = element("div", {}, element("p", { class: "text", dir: "auto" }, ...marked(`${text.slice(0, LONG)}…`)), button);
  button.addEventListener("click", () => folded.replaceWith(whole()));
  return folded;
}

function drawImage(question) {
  if (!question.image) return null;
  const uri = question.shown === null ? null : data.images[question.shown];
  if (!uri) return element("figure", {}, element("figcaption", {}, `${question.image}: not shown`));
  const button = element("button", { type: "button", class: "image", "aria-expanded": "false", title: "Enlarge or shrink" },
    element("img", { src: uri, alt: `Image ${question.image}`, decoding: "async" }));
  const figure = element("figure", {}, button, element("figcaption", {}, question.image));
  button.addEventListener("click", () => {
    button.setAttribute("aria-expanded", String(figure.classList.toggle("large")));
  });
  return figure;
}

function facts(answer) {
  const said = [];
  const isJudged = data.scale !== 100;
  if (answer.parsed !== null && !isJudged) said.push(`understood: ${answer.parsed}`);
  if (answer.score !== null && (isJudged || (answer.score > 0 && answer.score < 1))) {
    said.push(`score: ${Number((answer.score * data.scale).toFixed(2))}`);
  }
  return said.length ? element("p", { class: "facts" }, ...marked(said.join(" · "))) : null;
}

function note(title, text) {
  return text ? element("details", {}, element("summary", {}, title), passage(text)) : null;
}

function drawAnswer(run, number) {
  const answer = data.answers[run][number];
  const tone = data.tones[answer.outcome];
  return element("div", { class: `answer ${tone}` },
    element("h4", {}, data.runs[run], " ", element("span", { class: `badge ${tone}` }, answer.outcome)),
    facts(answer),
    answer.outcome === "missing" ? null : passage(answer.text, data.runTexts[run] ? "(an empty answer)" : "(text not available)"),
    note("What this run was asked", answer.prompt),
    note("About the mark", answer.note));
}

function drawQuestion(number) {
  const question = data.questions[number];
  const categories = question.categories.map((category) => data.categories[category]).join(" · ");
  const link = element("a", { href: `#question=${encodeURIComponent(question.id)}` }, ...marked(`Question ${question.id}`));
  const target = question.target === null ? null : element("div", { class: "target" },
    element("strong", { class: "text" }, data.scale === 100 ? "Correct:" : "Reference:"), passage(question.target));
  return element("article", { class: "question", tabindex: "-1", "data-number": number },
    element("header", {}, element("h3", {}, link), categories ? element("span", { class: "quiet" }, categories) : null),
    element("div", { class: "body" }, drawImage(question), element("div", {},
      passage(question.text, "(text of the question not available)"),
      target,
      element("div", { class: "answers" }, ...data.runs.map((_, run) => drawAnswer(run, number))),
      note("What the judge wrote", question.note))));
}

// The address contains the filters, so that a view can be bookmarked and shared.

const fields = { q: QUERY, of: SCOPE, ahead: AHEAD, category: CATEGORY, order: ORDER };

function remember() {
  const state = new URLSearchParams();
  for (const [name, field] of Object.entries(fields)) if (field.value !== initial[name]) state.set(name, field.value);
  if (shownOutcome() !== ALL) state.set("show", shownOutcome());
  const text = state.toString();
  if (text !== location.hash.slice(1)) history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
}

function restore() {
  const state = new URLSearchParams(location.hash.slice(1));
  const id = state.get("question");
  if (id !== null) return goTo(id);
  for (const [name, field] of Object.entries(fields)) {
    field.value = state.get(name) ?? initial[name];
    if (field.selectedIndex === -1) field.value = initial[name];
  }
  const outcome = state.get("show") ?? ALL;
  for (const radio of document.querySelectorAll("#show input")) radio.checked = radio.value === outcome;
  if (!document.querySelector("#show input:checked")) document.querySelector("#show input").checked = true;
  choose();
}

function goTo(id) {
  const number = data.questions.findIndex((question) => question.id === id);
  if (!chosen.includes(number)) reset();
  const at = chosen.indexOf(number);
  if (at < 0) return;
  if (at >= drawn) drawMore(at + STEP);
  const article = byId("list").children[at];
  article.scrollIntoView();
  article.focus({ preventScroll: true });
  history.replaceState(null, "", `#question=${encodeURIComponent(id)}`);
}

function reset() {
  for (const [name, field] of Object.entries(fields)) field.value = initial[name];
  document.querySelector("#show input").checked = true;
  choose();
}

// Keys

function move(steps) {
  const here = document.activeElement.closest?.(".question");
  const articles = byId("list").children;
  const at = here ? [...articles].indexOf(here) + steps : 0;
  if (at >= articles.length) drawMore();
  const next = articles[Math.max(0, at)];
  if (next) {
    next.focus({ preventScroll: true });
    next.scrollIntoView({ block: "start" });
  }
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape" && document.activeElement === QUERY) {
    const first = byId("list").firstElementChild;
    if (first) first.focus(); else QUERY.blur();
    return;
  }
  const isField = event.target.closest("input:not([type=radio]):not([type=checkbox]), select, textarea");
  if (!byId("keys").checked || isField) return;
  const actions = {
    "/": () => QUERY.focus(),
    j: () => move(1),
    k: () => move(-1),
    p: () => document.activeElement.closest?.(".question")?.querySelector(".image")?.click(),
  };
  if (actions[event.key]) {
    event.preventDefault();
    actions[event.key]();
  }
}

// Start

function options(select, pairs) {
  select.append(...pairs.map(([value, text]) => element("option", { value }, text)));
  if (pairs.length < 2) select.closest(".field").hidden = true;
}

function offer() {
  const outcomes = [ALL, ...data.outcomes, ...(data.runs.length > 1 ? [DISAGREEING] : [])];
  byId("show").append(...outcomes.map((outcome) => element("label", { class: "choice" },
    element("input", { type: "radio", name: "show", value: outcome }),
    element("span", {}, outcome, element("span", { class: "count quiet" })))));
  document.querySelector("#show input").checked = true;
  const several = data.runs.length > 1;
  options(SCOPE, [["any", "any run"], ...(several ? [["every", "every run"], ...data.runs.map((name, run) => [String(run), name])] : [])]);
  options(CATEGORY, [["", "all"], ...data.categories.map((name, number) => [String(number), name])]);
  const pairs = data.comparable.flatMap((one) => data.comparable.filter((other) => other !== one).map((other) => [one, other]));
  options(AHEAD, [["", "all"], ...pairs.map(([one, other]) => [`${one}>${other}`, `${data.runs[one]} better than ${data.runs[other]}`])]);
  options(ORDER, [["file", "in file order"], ...(data.comparable.length ? [["score", "lowest score first"]] : []),
    ...(data.comparable.length > 1 ? [["difference", "largest difference first"]] : [])]);
}

offer();
const initial = Object.fromEntries(Object.entries(fields).map(([name, field]) => [name, field.value]));
byId("browser").hidden = false;
let waiting = null;
QUERY.addEventListener("input", () => {
  clearTimeout(waiting);
  waiting = setTimeout(choose, 80);
});
byId("controls").addEventListener("change", (event) => { if (event.target !== QUERY) choose(); });
byId("controls").addEventListener("submit", (event) => { event.preventDefault(); choose(); });
byId("clear").addEventListener("click", reset);
byId("more").addEventListener("click", () => drawMore());
new IntersectionObserver((entries) => { if (entries[0].isIntersecting) drawMore(); }, { rootMargin: "800px" }).observe(byId("more"));
addEventListener("keydown", onKey);
addEventListener("hashchange", () => {
  if (location.hash === "#answers") return; // the link that skips the figures
  restore();
  if (!location.hash.startsWith("#question=")) byId("answers").scrollIntoView();
});
addEventListener("beforeprint", () => drawMore(PRINTED));
restore();
