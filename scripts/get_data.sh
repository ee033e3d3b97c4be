#!/usr/bin/env bash
# Fetches the files that the original LLaVA published for its evaluation, into the paths that the README's commands name.
#
# usage: scripts/get_data.sh [--list] [--from URL]
#
#   --list      only say which files these are, where they go, and their sha256
#   --from URL  another place to fetch from, such as a mirror; the paths below it are the same, and below URL/media for
#               files of which URL itself has Git LFS's pointers
#
# The files come from github.com/haotian-liu/LLaVA at commit c121f0432da27facab705978f83c4ada465e46fd. They are not part
# of this project and do not stand under its licence:
#   - questions, answers and contexts about COCO images: CC BY-NC 4.0, so not for commercial use; made with GPT-4, so
#     OpenAI's terms of use apply too; captions and boxes are COCO's, CC BY 4.0
#   - test_sqa_llava_13b_v0.json: answers to ScienceQA, which is CC BY-NC-SA 4.0
#   - rule.json and question.jsonl: with the original's code, Apache-2.0
#
# A file that is there and whole is not fetched again; one that was cut off is gone on with. Without a network, fetch the
# files elsewhere, put each at the path that --list tells, and run this again: it checks them.
# Exit code 0: all files are there and whole; 1: some are not, and it is said which; 2: wrong usage.
set -euo pipefail

commit=c121f0432da27facab705978f83c4ada465e46fd
source=https://raw.githubusercontent.com/haotian-liu/LLaVA/$commit
large=https://media.githubusercontent.com/media/haotian-liu/LLaVA/$commit # what Git LFS holds
terms='CC BY-NC 4.0 and OpenAI terms (COCO questions, answers, contexts), CC BY-NC-SA 4.0 (ScienceQA), Apache-2.0 (rest)'

# sha256, path in the original's repository, and our path where it is another one: rule.json is kept beside ours.
files='
2a77196696b5602b544244ace9aeac21300513be85b5e53eb2414d00cddbe1c7 playground/data/coco2014_val_qa_eval/qa90_questions.jsonl
5fd1a760483fb54e62a717a406add8a986f3e03a40d037b5d6515828cc90dbc5 playground/data/coco2014_val_qa_eval/qa90_gpt4_answer.jsonl
ed554e19bc901fae4ae7627858ca5d14befa5b5a0984ed5ce537d4ac3316bf5e playground/data/coco2014_val_gpt4_qa_30x3.jsonl
818d3df2b52784699bbdc129b6bc68e035d78ff8f5093c3e2ce5e0f726549b15 llava/eval/table/caps_boxes_coco2014_val_80.jsonl
dd7345a44ce9f7a24e51a30ee030cdab32346f9d08e3359c80545ff1312b1e07 llava/eval/table/rule.json llava/eval/table/rule_original.json
590c39157bc561eadd7f03cad4be18c2b597f93029780af65f86718f39eafa87 llava/eval/table/question.jsonl
35574d4ebb89ad628319c8624145a500ddb4792967f6da137b6d4fd6317a6fce llava/eval/table/results/test_sqa_llava_13b_v0.json
'

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"; }
wrong_usage() { printf 'error: %s\n(%s --help tells the options)\n' "$*" "$0" >&2; exit 2; }

only_list=
while (($#)); do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --list) only_list=yes; shift ;;
        --from) (($# > 1)) || wrong_usage "--from needs a value."; source=${2%/} large=${2%/}/media; shift 2 ;;
        *) wrong_usage "unknown option $1." ;;
    esac
done
cd "$(dirname "$0")/.."

sum_of() {
    if command -v sha256sum >/dev/null; then sha256sum "$1"; else shasum -a 256 "$1"; fi | cut -d ' ' -f 1
}

# Says what went wrong and returns 1, so that the other files are still fetched.
failed() { printf 'error: %s\n' "$*" >&2; return 1; }

# Goes on with what is there of PART. Exit code 0: the transfer is complete.
fetch() {
    local url=$1 part=$2 code
    for _ in 1 2 3; do
        code=0
        curl -fsSL --retry 3 --connect-timeout 20 -C - -o "$part" "$url" || code=$?
        case $code in
            0) return 0 ;;
            18 | 28 | 56) ;; # cut off: go on
            22 | 33) # refused: by a server that cannot go on in the middle, or that has nothing to add to PART?
                [[ -e $part ]] || return "$code"
                rm -f "$part"
                ;;
            *) return "$code" ;;
        esac
    done
    return "$code"
}

# Whether a file is Git LFS's pointer to what has this sum.
is_pointer_to() { head -c 200 "$1" | grep -q "^oid sha256:$2\$"; }

# Fetches into PART; where the repository holds a pointer only, what it points to, by way of PART.large.
fetch_content() {
    local sum=$1 name=$2 part=$3
    if [[ ! -e $part.large ]]; then
        [[ ! -f $part || $(sum_of "$part") != "$sum" ]] || return 0
        fetch "$source/$name" "$part" || return
        is_pointer_to "$part" "$sum" || return 0
        mv "$part" "$part.large"
        : >"$part.large"
    fi
    fetch "$large/$name" "$part.large" || return
    mv "$part.large" "$part"
}

get() {
    local sum=$1 name=$2 path=$3
    local part=$path.part found
    if [[ -f $path ]]; then
        found=$(sum_of "$path")
        if [[ $found = "$sum" ]]; then printf 'there:   %s\n' "$path"; return 0; fi
        failed "$path: is another file (sha256 $found, expected $sum). Move it away, then run this again." || return 1
    fi
    command -v curl >/dev/null || { failed "$path: curl is needed to fetch it; or put it there by hand (--list)." || return 1; }
    mkdir -p "$(dirname "$path")"
    if ! fetch_content "$sum" "$name" "$part"; then
        if [[ -s $part || -s $part.large ]]; then
            failed "$path: the transfer broke off. Run this again, it goes on from there." || return 1
        fi
        failed "$path: cannot be fetched from $source/$name. Check the network, or put it there by hand (--list)." || return 1
    fi
    found=$(sum_of "$part")
    if [[ $found != "$sum" ]]; then
        rm -f "$part"
        failed "$path: what came is another file (sha256 $found, expected $sum); it was removed." || return 1
    fi
    mv "$part" "$path"
    printf 'fetched: %s\n' "$path"
}

[[ -n $only_list ]] || printf 'These files are not under this project'"'"'s licence: %s.\n' "$terms"
missing=0
while read -r sum name path; do
    [[ -n $sum ]] || continue
    path=${path:-$name}
    if [[ -n $only_list ]]; then
        printf '%s\n    from   %s\n    sha256 %s\n' "$path" "$source/$name" "$sum"
    else
        get "$sum" "$name" "$path" || missing=$((missing + 1))
    fi
done <<<"$files"
if ((missing)); then
    printf 'error: %d files are not there. The same command goes on with them.\n' "$missing" >&2
    exit 1
fi
