"""The engines behind `rewrite_utils.llm.Engine`; `engines.opening.open_engine` opens one."""
