#!/usr/bin/env bash
# Fetches the page's two libraries from the npm registry, at pinned versions with pinned contents, into vendor/.
# Run it after changing a version; the result is committed, so users need neither npm nor a network.
set -euo pipefail
cd "$(dirname "$0")/vendor"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fetch() {  # NAME VERSION SHA256-OF-THE-TARBALL
  (cd "$work" && npm pack --silent "$1@$2" > /dev/null)
  echo "$3  $work/$1-$2.tgz" | sha256sum --check --quiet
  mkdir "$work/$1" && tar -xzf "$work/$1-$2.tgz" -C "$work/$1" --strip-components 1
  cp "$work/$1/LICENSE" "$1.LICENSE"
}

take() {  # FROM TO: one module, with plain file names for its imports and without its source map
  sed -e 's#from"preact"#from"./preact.js"#g' -e '/^\/\/# sourceMappingURL=/d' "$work/$1" > "$2"
  grep -q 'sourceMappingURL\|from"[^.]' "$2" && { echo "$2 still refers to what is not here" >&2; exit 1; }
  return 0
}

fetch preact 11.2.0 3c4456766bd32b6b534d52bf4e9c2a29b33e7eedf6e96ed479300ba1a7888ebf
fetch htm 3.1.1 2425b9bee11409177bcabc7f32e319926fc6690c1701c0b257c88bdff2d5ba90
take preact/dist/preact.mjs preact.js
take preact/hooks/dist/hooks.mjs hooks.js
take htm/dist/htm.mjs htm.js
