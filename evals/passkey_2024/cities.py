"""Names of cities for the city-number variant: a list of longctx's own, each name once."""

CITIES = (
    "Aarhus", "Abuja", "Accra", "Adelaide", "Algiers", "Ankara", "Antwerp", "Asmara", "Auckland", "Austin", "Baku", "Bamako", "Basel",
    "Belfast", "Bergen", "Bilbao", "Bogota", "Bordeaux", "Boston", "Brasilia", "Bremen", "Brisbane", "Busan", "Calgary", "Caracas",
    "Cardiff", "Casablanca", "Chennai", "Cologne", "Cordoba", "Cork", "Dallas", "Darwin", "Denver", "Detroit", "Dhaka", "Dresden", "Dublin",
    "Durban", "Edinburgh", "Florence", "Freetown", "Geneva", "Genoa", "Ghent", "Glasgow", "Granada", "Graz", "Guayaquil", "Hamburg",
    "Hanoi", "Harare", "Havana", "Hobart", "Honolulu", "Houston", "Jaipur", "Jeddah", "Karachi", "Kathmandu", "Kingston", "Krakow", "Kyoto",
    "La Paz", "Leipzig", "Lille", "Liverpool", "Ljubljana", "Luanda", "Lusaka", "Lyon", "Malaga", "Managua", "Manila", "Marseille",
    "Medellin", "Miami", "Milan", "Minsk", "Monrovia", "Montevideo", "Montreal", "Munich", "Nagoya", "Naples", "New Orleans", "Nice",
    "Osaka", "Ottawa", "Palermo", "Panama City", "Perth", "Phoenix", "Porto", "Prague", "Quito", "Riga", "Rome", "Rotterdam", "Salzburg",
)  # fmt: skip
