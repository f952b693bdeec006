-- clock() -> [seconds, microseconds] of the server's clock
return redis.call('TIME')
