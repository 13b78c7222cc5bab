-- KEYS[1] channel, ARGV[1] message: tell whoever listens. A script, because the link speaks nothing else.
return redis.call('PUBLISH', KEYS[1], ARGV[1])
