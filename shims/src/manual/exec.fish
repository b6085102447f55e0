
# Completes the command after `oswalk exec` and its options as that command itself would be.
# The lone - ends the options of the function, which it looks for at the beginning only.
complete -c oswalk -x -n "__fish_oswalk_using_subcommand exec; and not string match -q -- '-*' (commandline -ct)" \
    -a "(__fish_complete_subcommand --fcs-skip=2 - @OPTIONS@)"
