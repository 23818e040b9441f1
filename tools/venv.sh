#!/bin/sh
# usage: tools/venv.sh FOLDER
# Makes the virtual environment FOLDER, unless a working one is there. The Python is $PYTHON if
# that is set, else the first of the list below that is new enough and complete. 3.11 to 3.13 come
# before anything newer: for those every package we use has wheels.
set -eu
folder=$1

if "$folder/bin/python" -m pip --version >/dev/null 2>&1; then
    exit 0
fi

usable() { # COMMAND NEWEST_MINOR: is it Python 3.11 or newer, with the modules that venv needs?
    "$1" -c "import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, $2))" \
        >/dev/null 2>&1
}

choose() { # prints the first usable command
    if [ -n "${PYTHON:-}" ]; then
        usable "$PYTHON" 99 && echo "$PYTHON"
        return
    fi
    for newest in 13 99; do
        for command in python3 python3.13 python3.12 python3.11 python; do
            if usable "$command" "$newest"; then
                echo "$command"
                return
            fi
        done
    done
    return 1
}

if ! chosen=$(choose); then
    {
        echo "Python 3.11 or newer, with its venv module, is needed and was not found."
        for command in ${PYTHON:-python3 python3.13 python3.12 python3.11 python}; do
            version=$("$command" --version 2>/dev/null) || version="not there"
            echo "  $command: $version"
        done
        echo "Install one (https://www.python.org/downloads/; on Debian and Ubuntu also the package"
        echo "python3-venv), or name the one to use: make run PYTHON=/path/to/python3.13"
    } >&2
    exit 1
fi
echo "Making $folder with $("$chosen" --version)"
"$chosen" -m venv --clear "$folder"
