# Completion of nodejobs for fish: verbs, options, ids and queues.  Copy it to ~/.config/fish/completions/nodejobs.fish, or
#
#     source completion.fish
#     complete -c nj -f -a '(__nodejobs)'    # for a function nj of yours
#
# Ids come from `list -q`, queues from `queue list`, of the program that is typed, or, for a function, of `nodejobs`.

function __nodejobs_ids
    set -l program (command -s $argv[1]); or set program nodejobs
    $program $argv[2..-1] list -q 2>/dev/null
end

function __nodejobs_queues
    set -l program (command -s $argv[1]); or set program nodejobs
    $program $argv[2..-1] queue list --json 2>/dev/null | sed -n 's/^[[ ]*{"queue":"\([^"\\]*\)".*/\1/p'
end

function __nodejobs
    set -l words (commandline -opc)
    set -l typed (commandline -ct)
    set -l program $words[1]
    set -l previous $words[-1]
    set -l verb ''
    set -l action ''
    set -l db
    set -l found
    set -l options

    set -e words[1]
    while set -q words[1]
        switch $words[1]
            case -- # a command of yours
                __fish_complete_path $typed
                return
            case --db
                set db $words[1..2]
                set -e words[1]
            case '--db=*'
                set db $words[1]
            case '-*'
            case '*'
                if test -z "$verb"
                    set verb $words[1]
                else
                    set action $words[1]
                end
        end
        set -e words[1]
    end
    set -l prefix ''
    if string match -q -- '--*=*' $typed
        set previous (string split -m 1 = -- $typed)[1]
        set prefix $previous=
    end

    switch $verb
        case run
            set options --id -c --cwd --env --fresh --timeout --startsecs --queue --first --after --after-ok --merge \
                --max-log --wait --follow
        case status
            set options --run
        case list
            set options --status --id -n -q
        case logs
            set options --run --stdout --stderr -f -n
        case wait
            set options --timeout
        case stop
            set options --grace --signal
        case prune
            set options --older-than --keep --status --id
    end

    switch $previous
        case --status
            set found queued starting running stopping finished failed stopped failed_start lost
        case --signal
            set found HUP INT QUIT ABRT KILL USR1 USR2 TERM CONT STOP TSTP WINCH
        case --id --after --after-ok
            set found (__nodejobs_ids $program $db)
        case --queue
            set found (__nodejobs_queues $program $db)
        case --db --cwd --env --fresh --timeout --startsecs --max-log --run --grace --older-than --keep -c -n
        case '*'
            if string match -q -- '-*' $typed
                set found $options --json --db --help
                test -n "$verb"; or set found --db --help --version
            else if test -z "$verb"
                set found run status list logs wait stop queue history remove prune
            else if contains -- $verb status logs wait stop history remove; or test "$action" = first
                set found (__nodejobs_ids $program $db)
            else if test "$action" = pause -o "$action" = resume
                set found (__nodejobs_queues $program $db)
            else if test "$verb" = queue -a -z "$action"
                set found list pause resume first start
            end
    end
    if not set -q found[1]
        __fish_complete_path $typed
        return
    end
    # By itself fish offers as well what merely has the typed letters somewhere.
    set -l plain (string replace -r '^["\']' '' -- $typed | string replace -ra '\\\\(.)' '$1')
    for word in $prefix$found
        if test (string sub -l (string length -- "$plain") -- $word) = "$plain"
            printf '%s\n' $word
        end
    end
end
complete -c nodejobs -f -a '(__nodejobs)'
complete -c nodejobs.py -f -a '(__nodejobs)'
