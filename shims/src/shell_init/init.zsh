# OS Walk: an interactive shell opens a session for itself, but leaves one of `oswalk exec` alone.
if [[ -o interactive && -x @OSWALK@ ]] &&
    [[ -z ${OSWALK_PAGE-} || $OSWALK_PAGE == "${OSWALK_SHELL_PAGE-}" || ! -e $OSWALK_PAGE ]]; then
    eval "$(@OSWALK@@STATE@ shell-session zsh $$)"
fi
