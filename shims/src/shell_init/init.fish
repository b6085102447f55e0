# OS Walk: an interactive shell opens a session for itself, but leaves one of `oswalk exec` alone.
if status is-interactive; and test -x @OSWALK@
    if test -z "$OSWALK_PAGE"; or test "$OSWALK_PAGE" = "$OSWALK_SHELL_PAGE"; or not test -e "$OSWALK_PAGE"
        @OSWALK@@STATE@ shell-session fish $fish_pid | source
    end
end
