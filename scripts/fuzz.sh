#!/bin/bash
# Runs every fuzz target for FUZZ_TIME (default 30s), and reports the executions of each in one table. FUZZ limits it to
# the targets whose name matches the regular expression.
#
# -fuzzminimizetime=1x: otherwise a worker spends up to a minute on each new input, and one of few workers does a
# handful of executions in that time.
set -u -o pipefail
time=${FUZZ_TIME:-30s} only=${FUZZ:-.}
out=$(mktemp)
trap 'rm -f "$out"' EXIT
table= failed=0
while IFS=: read -r file _ line; do
	name=${line#func } name=${name%%(*}
	[[ $name =~ $only ]] || continue
	package=./$(dirname "$file")
	echo "fuzz: $package $name" >&2
	if go test "$package" -run '^$' -fuzz "^$name\$" -fuzztime "$time" -fuzzminimizetime=1x >"$out" 2>&1; then
		result=ok
	elif grep -q '^ *context deadline exceeded$' "$out" && ! grep -q -e 'Failing input' -e 'panic' "$out"; then
		result=ok # Go sometimes reports the end of the time as a failure (golang.org/issue/75804)
	else
		result=FAILED failed=1
		cat "$out" >&2
	fi
	executions=$(sed -n 's/^fuzz: .*execs: \([0-9]*\).*/\1/p' "$out" | tail -1)
	table+=$(printf '%s\t%s\t%s\t%s' "$package" "$name" "${executions:-0}" "$result")$'\n'
	[[ ${executions:-0} -gt 0 ]] || failed=1
done < <(git ls-files -co --exclude-standard '*_test.go' | sort | xargs grep -nH '^func Fuzz[A-Z]')
{
	printf 'PACKAGE\tTARGET\tEXECUTIONS\tRESULT\n%s' "$table"
} | awk -F '\t' '{ printf "%-34s %-20s %12s  %s\n", $1, $2, $3, $4 }'
exit $failed
