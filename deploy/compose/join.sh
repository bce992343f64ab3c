#!/bin/sh
# Makes the cluster's CA in the first container, and lets the others join. Once is enough; again does no
# harm but that the others get new certificates.
#
# EXEC_ON is the command that runs another one in a container, which comes after it.
set -eu
cd "$(dirname "$0")"
on=${EXEC_ON:-docker compose exec --no-TTY}

$on stratavore-1 stratavore ca init
for other in stratavore-2 stratavore-3; do
    # The token passes from one to the other, and stands in no file and no argument.
    $on stratavore-1 stratavore nodes token | $on "$other" stratavore nodes join --token-file -
done
$on stratavore-1 stratavore nodes
