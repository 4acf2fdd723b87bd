"""Texts that a page must show as they are."""

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</code></td><h1>no",
    "\"' onmouseover='alert(1)",
    "{{ 7 * 7 }}{% raw %}",
    "&amp;",
]
