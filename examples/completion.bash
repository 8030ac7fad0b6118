# Completion of nodejobs for bash: verbs, options, ids and queues.  In ~/.bashrc:
#
#     source completion.bash
#     alias nj='python3 ~/nodejobs.py'; complete -o default -F _nodejobs nj    # for an alias of yours
#
# Ids come from `list -q`, queues from `queue list`, of the program that is typed, or, for an alias or a function, of `nodejobs`.

# Undo the quoting of a word that is being typed.
_nodejobs_plain() {
    case $1 in
        \'*) plain=${1:1} ;;
        *) IFS= read plain <<< "${1#\"}" ;;
    esac
}

_nodejobs() {
    local verbs="run status list logs wait stop queue history remove prune"
    local statuses="queued starting running stopping finished failed stopped failed_start lost"
    local signals="HUP INT QUIT ABRT KILL USR1 USR2 TERM CONT STOP TSTP WINCH"
    local program plain word verb action options n first=$COMP_CWORD
    local -a db found

    # For us a word ends at a blank; readline also breaks it at a colon, an equals sign and an @.
    word=${COMP_WORDS[COMP_CWORD]}
    while ((first > 1)) && [[ ${COMP_WORDS[first - 1]} == *[:=@] || ${COMP_WORDS[first]} == [:=@]* ]]; do
        word=${COMP_WORDS[--first]}$word
    done
    _nodejobs_plain "$word"
    local typed=$plain previous=${COMP_WORDS[first - 1]}
    _nodejobs_plain "${word%"$2"}"
    local kept=$plain  # what readline leaves as it is
    [[ $typed != --*=* ]] || previous=${typed%%=*}

    for ((n = 1; n < first; n++)); do
        case ${COMP_WORDS[n]} in
            --) return ;;  # a command of yours
            --db)
                [[ ${COMP_WORDS[n + 1]} != = ]] || ((n++))
                _nodejobs_plain "${COMP_WORDS[++n]}"
                db=(--db "${plain%[\'\"]}") ;;
            -*) ;;
            *) if [[ ! $verb ]]; then verb=${COMP_WORDS[n]}; else action=${COMP_WORDS[n]}; fi ;;
        esac
    done

    case $verb in
        run) options="--id -c --cwd --env --fresh --timeout --startsecs --queue --first --after --after-ok --merge
                      --max-log --wait --follow" ;;
        status) options="--run" ;;
        list) options="--status --id -n -q" ;;
        logs) options="--run --stdout --stderr -f -n" ;;
        wait) options="--timeout" ;;
        stop) options="--grace --signal" ;;
        prune) options="--older-than --keep --status --id" ;;
    esac

    local wanted=
    case $verb:$previous in
        *:--status) found=($statuses) ;;
        *:--signal) found=($signals) ;;
        *:--id | *:--after | *:--after-ok) wanted=ids ;;
        *:--queue | queue:pause | queue:resume) wanted=queues ;;
        *:--db | *:--cwd | *:--env | *:--fresh | *:--timeout | *:--startsecs | *:--max-log) return ;;
        *:--run | *:--grace | *:--older-than | *:--keep | *:-c | *:-n) return ;;
        :*) found=($verbs); [[ $typed != -* ]] || found=(--db --help --version) ;;
        *) if [[ $typed == -* ]]; then
               found=($options --json --db --help)
           elif [[ " status logs wait stop history remove " == *" $verb "* || $action == first ]]; then
               wanted=ids
           elif [[ $verb == queue && ! $action ]]; then
               found=(list pause resume first start)
           fi ;;
    esac
    program=$(type -P -- "$1") || program=nodejobs
    case $wanted in
        ids) mapfile -t found < <("$program" "${db[@]}" list -q 2> /dev/null) ;;
        queues) mapfile -t found < <("$program" "${db[@]}" queue list --json 2> /dev/null |
                                     sed -n 's/^[[ ]*{"queue":"\([^"\\]*\)".*/\1/p') ;;
    esac
    [[ $typed != --*=* ]] || found=("${found[@]/#/$previous=}")

    local inner="'\\''"
    COMPREPLY=()
    for plain in "${found[@]}"; do
        [[ $plain == "$typed"* ]] || continue
        plain=${plain#"$kept"}
        case $word in  # readline inserts it as it is
            \'*) plain=${plain//\'/$inner} ;;
            \"*) plain=${plain//\\/\\\\}; plain=${plain//\"/\\\"}; plain=${plain//\$/\\\$}; plain=${plain//\`/\\\`} ;;
            *) printf -v plain %q "$plain" ;;
        esac
        COMPREPLY+=("$plain")
    done
}
complete -o default -F _nodejobs nodejobs nodejobs.py
