"""The last line of a test run, in the form that scripts read."""


def pytest_unconfigure(config):
    reporter = config.pluginmanager.get_plugin('terminalreporter')
    if reporter is None:
        return
    count = {kind: len(reporter.stats.get(kind, [])) for kind in ('passed', 'failed', 'error')}
    print(f"{count['passed']} passed, {count['failed'] + count['error']} failed")
