// The list of chats: its menu, renaming and moving in place, drawers on narrow screens.

import { at } from "./base.js";
import { isComposing } from "./drafts.js";
import { isOpen, send } from "./live.js";
import { remember } from "./shell.js";

const frame = document.getElementById("chat");
const menu = document.getElementById("chat-menu");
let opener = null;
let place = ""; // the place of the name, which an update of the list may render again

// Menu
function openMenu(button) {
  opener = button;
  const link = button.parentElement.querySelector(".chat-link");
  const id = link ? link.pathname.split("/").pop() : document.body.dataset.chat;
  place = link ? `.chat-link[href="${at(`/chat/${id}`)}"]` : "#chat-title h1";
  menu.dataset.chat = id;
  for (const item of menu.querySelectorAll("[name=do]")) item.value = `${item.dataset.menuDo}:${id}`;
  const row = document.querySelector(`.chat-link[href="${at(`/chat/${id}`)}"]`)?.parentElement;
  const isPinned = row?.dataset.pinned !== undefined;
  menu.querySelector("[data-menu-do=pin_chat]").hidden = isPinned;
  menu.querySelector("[data-menu-do=unpin_chat]").hidden = !isPinned;
  menu.dataset.folder = row?.dataset.folder ?? "";
  for (const link of menu.querySelectorAll("[data-menu-export]")) link.href = at(`/chat/${id}/export.${link.dataset.menuExport}`);
  for (const link of menu.querySelectorAll("[data-menu-aside]")) {
    link.href = at(`/chat/${id}/aside/${link.dataset.menuAside}`);
  }
  for (const link of menu.querySelectorAll("[data-menu-share]")) link.href = at(`/shared?chat=${id}`);
  const asks = menu.querySelector("[aria-controls=menu-ask]");
  asks.hidden = id !== document.body.dataset.chat;
  for (const more of menu.querySelectorAll("[data-menu-more]")) unfold(more, false);
  menu.showPopover();
  placeMenu();
  menu.querySelector(".menu-item").focus();
}

// One part of the menu is open at a time.
function unfold(more, isOpen) {
  more.setAttribute("aria-expanded", String(isOpen));
  document.getElementById(more.getAttribute("aria-controls")).hidden = !isOpen;
}

function placeMenu() {
  const spot = opener.getBoundingClientRect();
  const size = menu.getBoundingClientRect();
  const left = Math.min(spot.left, innerWidth - size.width - 8);
  const below = spot.bottom + 4;
  menu.style.left = `${Math.max(8, left)}px`;
  menu.style.top = `${below + size.height > innerHeight ? Math.max(8, spot.top - size.height - 4) : below}px`;
}

// Renaming in place, in the list or in the head
function rename(link, id) {
  const form = copyOf("rename-template", id);
  const before = link.textContent.trim();
  ask(form, form.elements.title, link, before, (title) => {
    if (!title) return;
    link.textContent = title;
    if (isOpen()) send({ do: "rename_chat", chat: id, title });
    else form.submit();
  });
}

// The folder of a chat, typed in its place; empty means none.
function move(link, id, before) {
  const form = copyOf("move-template", id);
  form.elements.do.value = `move_chat:${id}`;
  form.elements.chat.value = document.body.dataset.chat;
  ask(form, form.elements.folder, link, before, (folder) => {
    if (isOpen()) send({ do: `move_chat:${id}`, chat: document.body.dataset.chat, folder });
    else document.body.append(form), form.submit();
  });
}

function copyOf(name, id) {
  const form = document.getElementById(name).content.firstElementChild.cloneNode(true);
  form.elements.chat.value = id;
  return form;
}

// A form that replaces a name until it is sent or left.
function ask(form, field, link, before, keep) {
  field.value = before;
  link.hidden = true;
  link.after(form);
  field.select();
  let isDone = false;
  const end = (isKept) => {
    if (isDone) return;
    isDone = true;
    const text = field.value.trim();
    link.hidden = false;
    form.remove();
    if (isKept && text !== before) keep(text);
  };
  const focusAfter = () => (link.matches("a") ? link : document.getElementById("prompt")).focus();
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    event.stopPropagation();
    end(true);
    focusAfter();
  });
  field.addEventListener("blur", () => end(true));
  field.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !isComposing(event)) {
      event.stopPropagation();
      end(false);
      focusAfter();
    }
  });
}

// A suggestion of the model outside the chat; it takes a moment.
async function showAside(address) {
  const place = document.getElementById("aside");
  place.hidden = false;
  place.setAttribute("aria-busy", "true");
  place.scrollIntoView({ block: "nearest" });
  await htmx.ajax("GET", address, { target: "#aside", swap: "outerHTML" });
  document.getElementById("aside").scrollIntoView({ block: "nearest" });
}

// Updates of the list: a longer list is requested with its length, and the focus stays.
function keepList(event) {
  const list = event.detail.target;
  const focused = focusedIn(list);
  const refocus = () => focused && document.querySelector(`#chat-list ${focused}`)?.focus({ preventScroll: true });
  if (!list.dataset.count) return setTimeout(refocus);
  event.detail.shouldSwap = false;
  const source = at(`/chats?count=${list.dataset.count}`);
  return htmx.ajax("GET", source, { target: "#chat-list", swap: "outerHTML" }).then(refocus);
}

// Chats with an answer that was finished while another chat was shown, as far as this tab knows; without those that are
// no longer in the list.
function markUnread() {
  if (!document.getElementById("chat-list")) return;
  const ids = (name) => JSON.parse(sessionStorage.getItem(name) ?? "[]");
  const links = [...document.querySelectorAll("#chat-list .chat-link")];
  const shown = new Map(links.map((link) => [link.pathname.split("/").pop(), link]));
  const busy = [...shown.keys()].filter((id) => shown.get(id).parentElement.querySelector(".chat-busy"));
  const isWhole = (id) => shown.get(id)?.parentElement.dataset.incomplete === undefined;
  const answered = ids("roost.busy").filter((id) => !busy.includes(id) && isWhole(id));
  const unread = new Set([...ids("roost.unread"), ...answered].filter((id) => shown.has(id)));
  unread.delete(document.body.dataset.chat);
  sessionStorage.setItem("roost.unread", JSON.stringify([...unread]));
  sessionStorage.setItem("roost.busy", JSON.stringify(busy));
  for (const [id, link] of shown) {
    const isUnread = unread.has(id);
    link.parentElement.classList.toggle("is-unread", isUnread);
    if (isUnread) link.setAttribute("aria-description", document.getElementById("chat-list").dataset.unread);
  }
}

// The focused element of the list, to find it again after the list was rendered.
function focusedIn(list) {
  const node = list.contains(document.activeElement) ? document.activeElement : null;
  const href = node?.closest("li")?.querySelector(".chat-link").getAttribute("href");
  if (href) return `[href="${href}"]${node.matches(".dots") ? " ~ .dots" : ""}`;
  return node?.id ? `#${node.id}` : "";
}

// Panel and drawers
const isPhone = () => matchMedia("(max-width: 760px)").matches;
const isNarrow = () => matchMedia("(max-width: 1240px)").matches;

function setDrawer(name) {
  leavePanel();
  if (name) frame.dataset.drawer = name;
  else delete frame.dataset.drawer;
  showState();
  if (name) document.getElementById(name).querySelector("a, button").focus();
}

// Before it closes, the focus returns to the button that opened it.
function leavePanel() {
  const drawer = document.activeElement.closest("#panel, #chats");
  const isChats = drawer?.id === "chats";
  if (drawer && (!isChats || frame.dataset.drawer === "chats")) {
    document.querySelector(isChats ? "[data-drawer-toggle]" : ".chat-head [data-panel-toggle]").focus();
  }
}

function showState() {
  const isPanelOpen = isNarrow() ? frame.dataset.drawer === "panel" : frame.dataset.panel === "open";
  document.querySelector(".chat-head [data-panel-toggle]").setAttribute("aria-expanded", String(isPanelOpen));
  const isListOpen = isPhone() ? frame.dataset.drawer === "chats" : frame.dataset.list === "open";
  document.querySelector("[data-drawer-toggle]").setAttribute("aria-expanded", String(isListOpen));
}

function togglePanel() {
  if (isNarrow()) return setDrawer(frame.dataset.drawer === "panel" ? "" : "panel");
  leavePanel();
  frame.dataset.panel = frame.dataset.panel === "open" ? "closed" : "open";
  remember("roost_panel", frame.dataset.panel);
  showState();
}

function toggleList() {
  if (isPhone()) return setDrawer(frame.dataset.drawer === "chats" ? "" : "chats");
  frame.dataset.list = frame.dataset.list === "closed" ? "open" : "closed";
  remember("roost_list", frame.dataset.list);
  showState();
}

export function closeDrawer() {
  const wasOpen = Boolean(frame.dataset.drawer);
  setDrawer("");
  return wasOpen;
}

export function openChats() {
  if (isPhone()) setDrawer("chats");
  else if (frame.dataset.list === "closed") toggleList();
}

export function startChats() {
  document.addEventListener("click", (event) => {
    const button = event.target.closest(".dots, .head-menu");
    const switcher = event.target.closest("[data-switch]");
    if (switcher) {
      event.preventDefault();
      import("./switcher.js").then((made) => made.openSwitcher(switcher));
    } else if (button) openMenu(button);
    else if (event.target.closest("[data-menu-do=rename]")) {
      menu.hidePopover();
      rename(document.querySelector(place), menu.dataset.chat);
    } else if (event.target.closest("[data-menu-do=folder]")) {
      menu.hidePopover();
      move(document.querySelector(place), menu.dataset.chat, menu.dataset.folder);
    } else if (event.target.closest("[data-menu-aside]")) {
      event.preventDefault();
      menu.hidePopover();
      showAside(event.target.closest("a").href);
    } else if (event.target.closest("[data-menu-more]")) {
      const pressed = event.target.closest("[data-menu-more]");
      for (const more of menu.querySelectorAll("[data-menu-more]")) unfold(more, more === pressed && more.getAttribute("aria-expanded") !== "true");
      placeMenu();
    } else if (event.target.closest("#chat-menu")) menu.hidePopover();
    else if (isPhone() && event.target.closest(".rail-item[aria-current]")) {
      event.preventDefault(); // opens the list, which is within reach of a thumb
      toggleList();
    }
    else if (event.target.closest("[data-panel-toggle]")) togglePanel();
    else if (event.target.closest("[data-drawer-toggle]")) toggleList();
    else if (event.target.closest("[data-drawer-close]")) closeDrawer();
  });
  document.addEventListener("dblclick", (event) => {
    const head = event.target.closest("#chat-title h1");
    if (head && document.body.dataset.chat) rename(head, document.body.dataset.chat);
  });
  menu.addEventListener("toggle", (event) => {
    opener?.setAttribute("aria-expanded", String(event.newState === "open"));
  });
  // Updates from the server must not remove a name that is being typed.
  document.body.addEventListener("htmx:oobBeforeSwap", (event) => {
    if (event.detail.target.querySelector(".chat-rename")) event.detail.shouldSwap = false;
    else if (event.detail.target.id === "chat-list") keepList(event);
  });
  const name = document.title.split(" · ").at(-1);
  new MutationObserver(() => {
    const title = document.querySelector("#chat-title h1")?.textContent;
    if (title) document.title = `${title} · ${name}`;
  }).observe(document.querySelector(".chat-head"), { childList: true });
  const body = document.querySelector(".chats-body");
  const mark = () => {
    try {
      markUnread();
    } catch { /* this browser keeps nothing: no marks */ }
  };
  new MutationObserver(mark).observe(body, { childList: true });
  mark();
  addEventListener("resize", showState);
  showState();
}
