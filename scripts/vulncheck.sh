#!/bin/bash
# Runs govulncheck, of the version in the first argument, where its database can be reached. Elsewhere it says that
# nothing was checked, which is not a failure: the code is the same.
set -u -o pipefail
version=$1
database=${GOVULNDB:-https://vuln.go.dev}
if [[ $database == http* ]] && ! curl --fail --silent --show-error --location --max-time 20 --output /dev/null "$database/index/db.json"; then
	echo "vulncheck: NOT CHECKED: the database $database cannot be reached from here (GOVULNDB names a copy of it)"
	exit 0
fi
exec go run "golang.org/x/vuln/cmd/govulncheck@$version" -db "$database" ./...
