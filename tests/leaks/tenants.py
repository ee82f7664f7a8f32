"""The PostgreSQL tables of the tenant cases: one row of private data per user behind row-level security."""

from __future__ import annotations

from tests.leaks.backends import APP_ROLE, as_postgres_admin
from tests.leaks.case import Shape, Users


def prepare_accounts(users: Users, label: str, shape: Shape) -> None:
    """Make the table `accounts`, whose rows only show to the tenant named by the setting `app.tenant`; auditors see all."""
    rows = ", ".join(f"('{user.id}', '{user.value(label, shape)}')" for user in users)
    as_postgres_admin(
        "CREATE TABLE accounts (id serial PRIMARY KEY, tenant text NOT NULL, number text NOT NULL)",
        f"INSERT INTO accounts (tenant, number) VALUES {rows}",
        "ALTER TABLE accounts ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY own_rows ON accounts USING (tenant = current_setting('app.tenant', true))",
        f"GRANT SELECT, INSERT ON accounts TO {APP_ROLE}, leak_auditor",
        f"GRANT USAGE ON SEQUENCE accounts_id_seq TO {APP_ROLE}",
    )


def prepare_orders() -> None:
    """Make the table `orders`, empty: one row per order that was accepted."""
    as_postgres_admin(
        "CREATE TABLE orders (id serial PRIMARY KEY, owner text NOT NULL, reference text NOT NULL)",
        f"GRANT SELECT, INSERT, DELETE ON orders TO {APP_ROLE}",
        f"GRANT USAGE ON SEQUENCE orders_id_seq TO {APP_ROLE}",
    )


def prepare_schemas(users: Users, label: str) -> None:
    """Give the first three users a schema of their own with the table `branding`; everybody else shares the public one."""
    statements = ["CREATE TABLE public.branding (logo text, api_secret text)", "INSERT INTO public.branding VALUES ('default.svg', '')"]
    schemas = ["public"]
    for n in range(3):
        schema = schema_of(users[n].number)
        schemas.append(schema)
        statements += [
            f"CREATE SCHEMA {schema}",
            f"CREATE TABLE {schema}.branding (logo text, api_secret text)",
            f"INSERT INTO {schema}.branding VALUES ('logo.svg', '{users[n].value(label, 'base32')}')",
        ]
    for schema in schemas:
        statements += [f"GRANT USAGE ON SCHEMA {schema} TO {APP_ROLE}", f"GRANT SELECT ON {schema}.branding TO {APP_ROLE}"]
    as_postgres_admin(*statements)


def schema_of(number: int) -> str:
    return f"tenant_{number + 1:03}"
