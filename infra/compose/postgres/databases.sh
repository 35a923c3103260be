#!/bin/sh
# Run by the PostgreSQL image once, when its volume is empty: one role and one database each for MLflow and Prefect.
set -eu
for name in mlflow prefect; do
  psql --quiet --set ON_ERROR_STOP=1 --username postgres --dbname postgres \
    --set name="${name}" --set password="$(cat "/run/secrets/${name}_password")" <<'SQL'
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
REVOKE ALL ON DATABASE :"name" FROM PUBLIC;
SQL
done
