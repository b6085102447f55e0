
# Completes the command after `oswalk exec` and its options as that command itself would be.
_oswalk_exec() {
    local at=2
    if [[ ${COMP_WORDS[1]} == exec ]]; then
        while ((at < COMP_CWORD)); do
            case ${COMP_WORDS[at]} in
                --) ((at += 1)); break ;;
                @OPTIONS@) ((at += 2)) ;;
                -*) ((at += 1)) ;;
                *) break ;;
            esac
        done
        if ((at < COMP_CWORD)) || { ((at == COMP_CWORD)) && [[ $2 != -* ]]; }; then
            if declare -F _command_offset >/dev/null; then
                _command_offset "$at"
            elif ((at == COMP_CWORD)); then
                mapfile -t COMPREPLY < <(compgen -c -- "$2")
            else
                mapfile -t COMPREPLY < <(compgen -f -- "$2")
            fi
            return
        fi
    fi
    _oswalk "$@"
}
complete -F _oswalk_exec -o bashdefault -o default oswalk
