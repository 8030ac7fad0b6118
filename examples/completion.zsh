#compdef nodejobs nodejobs.py
# Completion of nodejobs for zsh: verbs, options, ids and queues.  In ~/.zshrc, after compinit:
#
#     source completion.zsh
#     compdef _nodejobs nj    # for a function nj of yours
#
# Ids come from `list -q`, queues from `queue list`, of the program that is typed, or, for a function, of `nodejobs`.

_nodejobs() {
    local previous verb action program wanted
    local -a verbs statuses signals options db found
    verbs=(run status list logs wait stop queue history remove prune)
    statuses=(queued starting running stopping finished failed stopped failed_start lost)
    signals=(HUP INT QUIT ABRT KILL USR1 USR2 TERM CONT STOP TSTP WINCH)
    integer n

    for ((n = 2; n < CURRENT; n++)); do
        case $words[n] in
            (--) _default; return ;;  # a command of yours
            (--db) db=(--db "${(Q)words[++n]}") ;;
            (--db=*) db=("${(Q)words[n]}") ;;
            (-*) ;;
            (*) if [[ -z $verb ]]; then verb=$words[n]; else action=$words[n]; fi ;;
        esac
    done
    previous=$words[CURRENT-1]
    if [[ $PREFIX == --*=* ]]; then
        previous=${PREFIX%%=*}
        compset -P 1 '*='
    fi

    case $verb in
        (run) options=(--id -c --cwd --env --fresh --timeout --startsecs --queue --first --after --after-ok --merge
                       --max-log --wait --follow) ;;
        (status) options=(--run) ;;
        (list) options=(--status --id -n -q) ;;
        (logs) options=(--run --stdout --stderr -f -n) ;;
        (wait) options=(--timeout) ;;
        (stop) options=(--grace --signal) ;;
        (prune) options=(--older-than --keep --status --id) ;;
    esac

    case $verb:$previous in
        (*:--status) found=($statuses) ;;
        (*:--signal) found=($signals) ;;
        (*:--id|*:--after|*:--after-ok) wanted=ids ;;
        (*:--queue|queue:pause|queue:resume) wanted=queues ;;
        (*:--db|*:--cwd|*:--env|*:--fresh|*:--timeout|*:--startsecs|*:--max-log) ;;
        (*:--run|*:--grace|*:--older-than|*:--keep|*:-c|*:-n) ;;
        (:*) found=($verbs); [[ $PREFIX != -* ]] || found=(--db --help --version) ;;
        (*) if [[ $PREFIX == -* ]]; then
                found=($options --json --db --help)
            elif [[ " status logs wait stop history remove " == *" $verb "* || $action == first ]]; then
                wanted=ids
            elif [[ $verb == queue && -z $action ]]; then
                found=(list pause resume first start)
            fi ;;
    esac
    program=$(whence -p -- $words[1]) || program=nodejobs
    case $wanted in
        (ids) found=("${(@f)$($program $db list -q 2> /dev/null)}") ;;
        (queues) found=("${(@f)$($program $db queue list --json 2> /dev/null |
                                 sed -n 's/^[[ ]*{"queue":"\([^"\\]*\)".*/\1/p')}") ;;
    esac
    if [[ -n $found ]]; then compadd -- "${found[@]}"; else _default; fi
}
compdef _nodejobs nodejobs nodejobs.py
