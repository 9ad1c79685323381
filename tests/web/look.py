#!/usr/bin/python3
"""look.py PAGE [FOLDER] - opens a report in headless Chromium as readers do, and says what is there, as JSON.

Light, dark and a phone 390 pixels wide, from a file and without a network. errors: what the browser's console has; plots:
for each SVG whether it has a name, a description and how many of its shapes are drawn with a size; wide: elements that make
the page scroll sideways; low: texts whose contrast to the page is under 4.5. With FOLDER, screenshots of the first 2,400
pixels.
"""
import base64
import json
import os
import sys

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

LOOK = """
const shown = e => { const b = e.getBoundingClientRect(); return b.width > 0 || b.height > 0; };
const rgb = c => { const m = c.match(/[\\d.]+/g).map(Number); return m.length > 3 && m[3] == 0 ? null : m; };
const light = c => { const f = v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  return .2126 * f(c[0]) + .7152 * f(c[1]) + .0722 * f(c[2]); };
const behind = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c) return c; }
  return [255, 255, 255]; };
const contrast = (a, b) => { const x = light(a), y = light(b); return (Math.max(x, y) + .05) / (Math.min(x, y) + .05); };
const texts = [...document.querySelectorAll('h1,h2,h3,h4,p,small,a,figcaption,.wide td,.wide th,.text td')];
const inked = [...document.querySelectorAll('svg[role=img] text')];
const low = texts.filter(e => e.textContent.trim() && contrast(rgb(getComputedStyle(e).color), behind(e)) < 4.5)
  .concat(inked.filter(e => contrast(rgb(getComputedStyle(e).fill), behind(e.closest('figure'))) < 4.5));
return {
  width: innerWidth, scroll: document.documentElement.scrollWidth,
  wide: [...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, svg') &&
    e.getBoundingClientRect().right > innerWidth + .5).map(e => e.tagName + '.' + e.className).slice(0, 5),
  plots: [...document.querySelectorAll('svg[role=img]')].map(s => ({title: s.querySelector('title').textContent,
    described: s.querySelector('desc').textContent.length > 10 && s.getAttribute('aria-labelledby').split(' ').every(i => document.getElementById(i)),
    shapes: [...s.querySelectorAll('path, use, circle')].filter(shown).length,
    words: [...s.querySelectorAll('text')].map(t => t.textContent.trim()), broken: /kdL\\d\\d|rgb\\(/.test(s.outerHTML)})),
  images: document.images.length, whole: [...document.images].every(i => i.complete && i.naturalWidth > 0 && i.alt),
  ids: new Set([...document.querySelectorAll('[id]')].map(e => e.id)).size == document.querySelectorAll('[id]').length,
  links: [...document.querySelectorAll('nav a')].every(a => document.querySelector(a.getAttribute('href'))),
  scripts: document.scripts.length, low: low.map(e => e.tagName + ': ' + e.textContent.slice(0, 30)).slice(0, 5),
  text: document.body.textContent
};"""


def main(page, folder):
    options = webdriver.ChromeOptions()
    for flag in "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars":
        options.add_argument(flag)
    options.binary_location = "/usr/bin/chromium"
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(service=Service("/usr/bin/chromedriver"), options=options)
    seen = {}
    try:
        for name, width, scheme in ("light", 1100, "light"), ("dark", 1100, "dark"), ("phone", 390, "light"):
            size = {"width": width, "height": 2400, "deviceScaleFactor": 1, "mobile": name == "phone"}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            theme = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", theme)
            browser.get("file://" + os.path.abspath(page))
            seen[name] = browser.execute_script(LOOK)
            if folder:
                shot = browser.execute_cdp_cmd("Page.captureScreenshot", {})["data"]
                with open(f"{folder}/{name}.png", "wb") as f:
                    f.write(base64.b64decode(shot))
        seen["errors"] = browser.get_log("browser")
    finally:
        browser.quit()
    json.dump(seen, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)
