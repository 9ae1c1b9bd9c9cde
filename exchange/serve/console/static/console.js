// What moves by itself, and the keys. Every page works without it.
"use strict";

(() => {
  const root = document.documentElement;
  const parts = () => document.querySelectorAll("[data-live]");
  const every = Number(root.dataset.every || 0) * 1000;

  // Parts of the page marked data-live are taken anew from the same address; what somebody types in stays.
  async function renew() {
    if (document.hidden || !parts().length) return;
    try {
      const answer = await fetch(location.href, { headers: { "X-Live": "1" }, redirect: "error" });
      if (!answer.ok) throw new Error(answer.statusText);
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const part of parts()) {
        const other = fresh.getElementById(part.id);
        const busy = part.contains(document.activeElement) && document.activeElement.matches("input, textarea, select");
        const open = part.querySelector("details[open]");
        if (!other || busy || open || other.innerHTML === part.innerHTML) continue;
        const focused = part.contains(document.activeElement) && document.activeElement.getAttribute("href");
        part.innerHTML = other.innerHTML;
        if (focused) part.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
      }
      root.classList.remove("stale");
      say("");
    } catch {
      root.classList.add("stale");
      say("This page is not moving: the server gives no answer. What it shows is old.");
    }
  }

  function say(words) {
    const line = document.getElementById("stale");
    if (line && line.textContent !== words) {
      line.textContent = words;
      line.hidden = !words;
    }
  }

  if (every) setInterval(renew, every);

  // One key opens a page, / goes to the search, n and p to the next and previous row, ? lists the keys.
  const typing = (target) => target.matches("input, textarea, select, [contenteditable]");
  let before = "";
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || typing(event.target)) return;
    if (before === "g") {
      const link = document.querySelector(`a[data-key="${CSS.escape(event.key)}"]`);
      before = "";
      if (link) location.assign(link.href);
      return;
    }
    before = event.key;
    if (event.key === "/") {
      const search = document.querySelector("[data-search]");
      if (search) {
        event.preventDefault();
        search.focus();
      }
    } else if (event.key === "n" || event.key === "p") {
      const rows = [...document.querySelectorAll("main tbody a[href]:first-of-type")];
      const at = rows.indexOf(document.activeElement);
      const next = rows[event.key === "n" ? at + 1 : at - 1];
      if (next) next.focus();
    } else if (event.key === "?") {
      const keys = document.getElementById("keys");
      if (keys) keys.open = !keys.open;
    }
  });

  document.addEventListener("click", (event) => {
    if (event.target.closest(".menu-button")) {
      event.preventDefault();
      document.querySelector(".side").classList.toggle("open");
    }
  });

  // What was sent is not sent again by a second click; what gives a file leaves the page, so that it may be asked again.
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.method !== "post") return;
    if (form.dataset.sent) {
      event.preventDefault();
      return;
    }
    form.dataset.sent = "1";
    setTimeout(() => delete form.dataset.sent, 3000);
  });
  window.addEventListener("pageshow", () => {
    for (const form of document.forms) delete form.dataset.sent;
  });

  // A box that stands for all boxes of its table.
  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-all]"))
      for (const box of event.target.closest("table").querySelectorAll("tbody input[type=checkbox]"))
        box.checked = event.target.checked;
  });

  // Who types into a column means what is typed.
  document.addEventListener("input", (event) => {
    const column = event.target.closest("fieldset.column");
    const how = column && column.querySelector('select[name^="how:"]');
    if (how && how !== event.target) how.value = "value";
  });

  // A form marked data-check is posted to that address as somebody types, and the answer shown beside it.
  for (const form of document.querySelectorAll("form[data-check]")) {
    let waits;
    form.addEventListener("input", () => {
      clearTimeout(waits);
      waits = setTimeout(async () => {
        const answer = await fetch(form.dataset.check, { method: "POST", body: new URLSearchParams(new FormData(form)) });
        const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
        const shown = document.getElementById(form.dataset.shows);
        const other = fresh.getElementById(form.dataset.shows);
        if (shown && other) shown.innerHTML = other.innerHTML;
      }, 300);
    });
  }

  // Events as they happen.
  const list = document.querySelector("[data-events]");
  if (list) {
    const source = new EventSource(list.dataset.events);
    source.onmessage = (message) => {
      const row = new DOMParser().parseFromString(`<table><tbody>${message.data}</tbody></table>`, "text/html");
      for (const one of row.querySelectorAll("tr")) list.prepend(document.importNode(one, true));
      while (list.children.length > 500) list.lastElementChild.remove();
      const empty = document.getElementById("no-events");
      if (empty) empty.remove();
    };
    source.addEventListener("trouble", (message) => {
      const words = JSON.parse(message.data);
      say(words && `Nothing can be read now: ${words}`);
    });
    source.onerror = () => say("The stream of events is broken off; it is asked for again by itself.");
    source.onopen = () => say("");
  }
})();
